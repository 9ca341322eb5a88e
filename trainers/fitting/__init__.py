"""How parameters are fitted: linear heads, the step, the loop, cached states, the climb."""
