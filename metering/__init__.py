"""What anything costs: clocks, memory, and later joules, FLOP and byte counts. Knows no model."""
