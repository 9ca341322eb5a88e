"""A week of twenty tasks, hour by hour: its plan, clock, databases, tasks, server and clients (`soak_week`)."""
