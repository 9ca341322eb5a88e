"""Labels and cells of a column: their spelling, and tags of words. Imports no jax."""
