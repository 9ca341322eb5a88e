"""Pruning of a graft's suffix without training: importance, the search for masks, their tuning."""
