"""Scenarios of load: how queries arrive, when a run has seen enough of them, and what it did to the machine."""
