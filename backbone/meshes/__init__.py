"""Devices as a mesh: its axes as data, the rules that lay parameters over them, and the layout of arrays."""
