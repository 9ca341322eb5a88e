"""The price of a run: timed steps and passes, and their sum."""
