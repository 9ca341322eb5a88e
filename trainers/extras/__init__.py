"""Additions of a run to its graft: out-of-scope score, early exits, validated variants."""
