"""RoBERTa and XLM-RoBERTa (`model_type: roberta`, `xlm-roberta`).

BERT, but for positions: the first token has position id p + 1, where p is the padding token's id. The table therefore
has p + 1 rows more than the longest input has tokens. Token types are one row that every token adds.

Source: Liu et al. 2019 (arXiv 1907.11692); tensor names as in transformers' `RobertaModel`.
"""

from __future__ import annotations

from typing import Any

from backbone.families.bert import BertLayout
from backbone.families.family import EXAMPLE_SIZES, EXAMPLE_VOCABULARY, Fields


class Roberta(BertLayout, tag="roberta"):
    """RoBERTa. Its classifier is two dense layers, so no pooling of ours makes it one."""

    task_prefix = "roberta"
    ignored = r"embeddings\.(position|token_type)_ids$|lm_head\.|classifier\.|qa_outputs\."
    tokenizer_class = "RobertaTokenizer"

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        return {
            "vocab_size": EXAMPLE_VOCABULARY,
            "max_position_embeddings": 34,
            "type_vocab_size": 1,
            "pad_token_id": 1,
            "layer_norm_eps": 1e-5,
            **EXAMPLE_SIZES,
        }

    def position_offset(self, fields: Fields) -> int:
        return fields.integer("pad_token_id", 1) + 1


class XlmRoberta(Roberta, tag="xlm-roberta"):
    """XLM-RoBERTa: RoBERTa's tensors under the same names, another vocabulary."""

    tokenizer_class = "XLMRobertaTokenizer"

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        return super().example_config() | {"max_position_embeddings": 36, "pad_token_id": 3}
