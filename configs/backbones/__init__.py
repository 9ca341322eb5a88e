"""Configs of `topgraft train-backbone`, by file or by name."""
