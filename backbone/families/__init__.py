"""One file per family of published encoders: its config fields, and what it calls its tensors."""

from backbone.families.bert import BERT
from backbone.families.distilbert import DISTILBERT
from backbone.families.family import Family
from backbone.families.modernbert import MODERNBERT
from backbone.families.roberta import ROBERTA, XLM_ROBERTA
from backbone.families.vit import DEIT, VIT

FAMILIES: dict[str, Family] = {
    family.name: family for family in (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, MODERNBERT, VIT, DEIT)
}

__all__ = ["FAMILIES", "Family"]
