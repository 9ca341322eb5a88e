"""Subsets of the train rows: which rows a run learns from, one method a file."""
