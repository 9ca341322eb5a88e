"""Budgets of a team: what its tasks may cost, read from one file, and the audit of every version against it."""
