"""Variants: how they register themselves, and the users' scripts that bring their own. Imports no jax."""
