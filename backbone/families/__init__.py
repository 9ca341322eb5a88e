"""One file per family of published models: its config fields, and what it calls its tensors."""

from backbone.families.family import Family, find_family

__all__ = ["Family", "find_family"]
