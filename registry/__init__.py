"""Which version of what exists, what is live, what it was made from."""
