"""Rows: formats, splits, prepared examples, batches and their order."""
