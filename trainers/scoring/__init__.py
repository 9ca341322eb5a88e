"""The scoring of a fitted graft: metrics, slices, the report."""
