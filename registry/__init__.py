"""The versions of every task: which exist, which one is live, and what each was made from."""
