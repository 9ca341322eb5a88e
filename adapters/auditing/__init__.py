"""The audit of a machine: our programs with their libraries and speeds, what surrounds them, and a baseline."""
