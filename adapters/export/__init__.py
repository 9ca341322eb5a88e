"""Grafts for other software: PEFT folders, and self-contained folders that run without Topgraft."""
