"""What a run will cost: timed steps and passes, and their sum."""
