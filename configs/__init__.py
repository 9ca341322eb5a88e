"""Experiments: each file defines `get_config()`. Run one with `topgraft train NAME`."""
