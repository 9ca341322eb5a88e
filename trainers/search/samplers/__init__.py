"""Samplers of a search: which point is tried next, one a file."""
