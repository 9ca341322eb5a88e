"""What a run may add to its graft: out-of-scope score, early exits, validated variants."""
