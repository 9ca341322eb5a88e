"""What is live: found, followed, loaded, and whether it can answer."""
