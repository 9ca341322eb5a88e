"""Curated train rows: the facts that methods read, near-duplicates, and the choice itself."""
