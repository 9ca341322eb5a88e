"""RoBERTa and XLM-RoBERTa (`model_type: roberta`, `xlm-roberta`).

BERT, but for positions: id p + 1 is the first token's, where p is the padding token's id, so the table
has p + 1 rows more than the longest input has tokens. Token types are one row that every token adds.

Source: Liu et al. 2019 (arXiv 1907.11692); tensor names as in transformers' `RobertaModel`.
"""

from __future__ import annotations

from backbone.families.bert import BertLayout
from backbone.families.family import Fields


class Roberta(BertLayout):
    """See `backbone.families.family.Family`."""

    task_prefix = "roberta"
    task_pooling = ""  # its classifier is two dense layers
    ignored = r"embeddings\.position_ids$|lm_head\.|classifier\."

    def __init__(self, name: str):
        self.name = name

    def position_offset(self, fields: Fields) -> int:
        return fields.integer("pad_token_id", 1) + 1


ROBERTA, XLM_ROBERTA = Roberta("roberta"), Roberta("xlm-roberta")
