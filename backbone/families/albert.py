"""ALBERT (`model_type: albert`): BERT whose blocks share their weights, and whose embeddings are narrower.

Blocks in a row form groups with one set of weights each. Embeddings are normalised at their own width, and a
dense layer projects them to that of the blocks. The head of masked language modelling works at their width too.

Source: Lan et al. 2019 (arXiv 1909.11942), section 3.1; tensor names as in transformers' `AlbertModel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

from backbone.families.family import ACTIVATIONS, EXAMPLE_SIZES, EXAMPLE_VOCABULARY, Family, Fields
from backbone.spec import EncoderSpec


class Albert(Family, tag="albert"):
    """ALBERT; the number in our `blocks` is that of a group."""

    task_prefix = "albert"
    task_pooling = "pooler"
    task_tagging = True
    exportable = True
    ignored = r"embeddings\.(position|token_type)_ids$|predictions\.|sop_classifier\.|classifier\.|qa_outputs\."
    block = "encoder.albert_layer_groups.{}.albert_layers.0."
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.token": "embeddings.word_embeddings.weight",
        "embeddings.position": "embeddings.position_embeddings.weight",
        "embeddings.segment": "embeddings.token_type_embeddings.weight",
        "embeddings.norm": "embeddings.LayerNorm",
        "embeddings.projection": "encoder.embedding_hidden_mapping_in",
        "attention.output": "attention.dense",
        "attention.norm": "attention.LayerNorm",
        "mlp.up": "ffn",
        "mlp.down": "ffn_output",
        "mlp.norm": "full_layer_layer_norm",
        "pooler.dense": "pooler",
    }
    qkv = ("attention.query", "attention.key", "attention.value")

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        return {
            "vocab_size": EXAMPLE_VOCABULARY,
            "embedding_size": 16,
            "max_position_embeddings": 32,
            "num_hidden_groups": 2,
            **EXAMPLE_SIZES,
            "num_hidden_layers": 4,
        }

    def spec(self, config: Mapping[str, Any], tensors: Collection[str]) -> EncoderSpec:
        fields = Fields(config)
        fields.require(inner_group_num=1, position_embedding_type="absolute", quantization_config=None)
        return EncoderSpec(
            blocks=fields.integer("num_hidden_layers"),
            width=fields.integer("hidden_size"),
            heads=fields.integer("num_attention_heads"),
            mlp_width=fields.integer("intermediate_size"),
            vocabulary=fields.integer("vocab_size"),
            positions=fields.integer("max_position_embeddings"),
            segments=fields.integer("type_vocab_size", 2),
            activation=fields.choice("hidden_act", ACTIVATIONS, "gelu_new"),
            norm_epsilon=fields.number("layer_norm_eps", 1e-12),
            pooler="pooler.weight" in tensors,
            groups=fields.integer("num_hidden_groups", 1),
            embedding_width=fields.integer("embedding_size", 128),
        )

    def config(self, spec: EncoderSpec, *, masked: bool) -> dict[str, Any]:
        return {
            "architectures": ["AlbertForMaskedLM" if masked else "AlbertModel"],
            "model_type": self.tag,
            "hidden_size": spec.width,
            "embedding_size": spec.embedding_width,
            "num_hidden_layers": spec.blocks,
            "num_hidden_groups": spec.groups,
            "inner_group_num": 1,
            "num_attention_heads": spec.heads,
            "intermediate_size": spec.mlp_width,
            "vocab_size": spec.vocabulary,
            "max_position_embeddings": spec.positions,
            "type_vocab_size": spec.segments,
            "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == spec.activation),
            "layer_norm_eps": spec.norm_epsilon,
            "position_embedding_type": "absolute",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "classifier_dropout_prob": 0.1,
            "tie_word_embeddings": True,
        }

    def release_head(self, head: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {
            "predictions.dense.weight": np.asarray(head["dense"]["kernel"]).T,
            "predictions.dense.bias": np.asarray(head["dense"]["bias"]),
            "predictions.LayerNorm.weight": np.asarray(head["norm"]["scale"]),
            "predictions.LayerNorm.bias": np.asarray(head["norm"]["bias"]),
            "predictions.bias": np.asarray(head["decoder"]["bias"]),
        }
