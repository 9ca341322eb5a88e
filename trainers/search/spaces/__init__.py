"""Spaces that come with Topgraft, one file each: `--space small` is `small.py`."""
