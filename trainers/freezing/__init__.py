"""Freezing schedules: which blocks are live at each step of a run."""
