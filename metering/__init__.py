"""Meters of cost: clocks, memory, joules, FLOP and byte counts, the ceilings of a machine. Knows no model."""
