"""Penalties on an adapter, one file each (`penalties` of a config)."""
