"""The console: verbs, options from dataclasses, lines of a log. Imports no jax."""
