"""Grafts for other software: PEFT folders, and folders that answer without Topgraft."""
