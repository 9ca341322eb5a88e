"""BERT, MiniLM and sentence-transformers built on them (`model_type: bert`).

Source: Devlin et al. 2018 (arXiv 1810.04805); tensor names as in transformers' `BertModel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

from backbone.families.family import ACTIVATIONS, EXAMPLE_SIZES, EXAMPLE_VOCABULARY, Family, Fields
from backbone.spec import EncoderSpec


class BertLayout(Family):
    """The part that BERT and RoBERTa have in common."""

    task_tagging = True
    renames = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
    ignored = r"embeddings\.(position|token_type)_ids$|cls\.|classifier\.|qa_outputs\."
    tokenizer_class = "BertTokenizer"
    block = "encoder.layer.{}."
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.token": "embeddings.word_embeddings.weight",
        "embeddings.position": "embeddings.position_embeddings.weight",
        "embeddings.segment": "embeddings.token_type_embeddings.weight",
        "embeddings.norm": "embeddings.LayerNorm",
        "attention.output": "attention.output.dense",
        "attention.norm": "attention.output.LayerNorm",
        "mlp.up": "intermediate.dense",
        "mlp.down": "output.dense",
        "mlp.norm": "output.LayerNorm",
        "pooler.dense": "pooler.dense",
    }
    qkv = ("attention.self.query", "attention.self.key", "attention.self.value")

    def position_offset(self, fields: Fields) -> int:
        """Returns the position id of the first token."""
        return 0

    def spec(self, config: Mapping[str, Any], tensors: Collection[str]) -> EncoderSpec:
        fields = Fields(config)
        fields.require(
            position_embedding_type="absolute",
            is_decoder=False,
            add_cross_attention=False,
            is_encoder_decoder=False,
            embedding_size=config.get("hidden_size"),
            quantization_config=None,
            pruned_heads={},
        )
        offset = self.position_offset(fields)
        return EncoderSpec(
            blocks=fields.integer("num_hidden_layers"),
            width=fields.integer("hidden_size"),
            heads=fields.integer("num_attention_heads"),
            mlp_width=fields.integer("intermediate_size"),
            vocabulary=fields.integer("vocab_size"),
            positions=fields.integer("max_position_embeddings") - offset,
            segments=fields.integer("type_vocab_size", 2),
            position_offset=offset,
            activation=fields.choice("hidden_act", ACTIVATIONS, "gelu"),
            norm_epsilon=fields.number("layer_norm_eps", 1e-12),
            pooler="pooler.dense.weight" in tensors,
        )


class Bert(BertLayout, tag="bert"):
    """BERT with a head of masked language modelling under `cls.predictions`."""

    task_prefix = "bert"
    task_pooling = "pooler"
    exportable = True

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        return {"vocab_size": EXAMPLE_VOCABULARY, "max_position_embeddings": 32, **EXAMPLE_SIZES}

    def config(self, spec: EncoderSpec, *, masked: bool) -> dict[str, Any]:
        return {
            "architectures": ["BertForMaskedLM" if masked else "BertModel"],
            "model_type": self.tag,
            "hidden_size": spec.width,
            "num_hidden_layers": spec.blocks,
            "num_attention_heads": spec.heads,
            "intermediate_size": spec.mlp_width,
            "vocab_size": spec.vocabulary,
            "max_position_embeddings": spec.positions,
            "type_vocab_size": spec.segments,
            "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == spec.activation),
            "layer_norm_eps": spec.norm_epsilon,
            "position_embedding_type": "absolute",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "tie_word_embeddings": True,
        }

    def release_head(self, head: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {
            "cls.predictions.transform.dense.weight": np.asarray(head["dense"]["kernel"]).T,
            "cls.predictions.transform.dense.bias": np.asarray(head["dense"]["bias"]),
            "cls.predictions.transform.LayerNorm.weight": np.asarray(head["norm"]["scale"]),
            "cls.predictions.transform.LayerNorm.bias": np.asarray(head["norm"]["bias"]),
            "cls.predictions.bias": np.asarray(head["decoder"]["bias"]),
        }
