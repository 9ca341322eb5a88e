"""How a fitted graft is scored: metrics, slices, the report."""
