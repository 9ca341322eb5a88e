"""One file per family of published encoders: its config fields, and what it calls its tensors."""

from backbone.families.bert import BERT
from backbone.families.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (BERT,)}

__all__ = ["FAMILIES", "Family"]
