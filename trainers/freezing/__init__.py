"""Freezing schedules: which blocks are live at each step of a run. One file a schedule; imports no jax."""
