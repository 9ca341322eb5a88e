"""Faults at every change of a file and at every statement of a verb: where they strike, and what is left."""
