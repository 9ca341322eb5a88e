"""The fitting of parameters: linear heads, the step, the loop, cached states, the climb."""
