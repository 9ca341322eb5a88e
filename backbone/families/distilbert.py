"""DistilBERT (`model_type: distilbert`): BERT without token types and pooler, under its own names.

Source: Sanh et al. 2019 (arXiv 1910.01108); tensor names as in transformers' `DistilBertModel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from backbone.families.family import ACTIVATIONS, EXAMPLE_VOCABULARY, Family, Fields
from backbone.spec import EncoderSpec


class DistilBert(Family, tag="distilbert"):
    """DistilBERT; its configs have names of their own for the sizes."""

    task_prefix = "distilbert"
    task_tagging = True
    ignored = r"embeddings\.position_ids$|vocab_|pre_classifier\.|classifier\.|qa_outputs\."
    tokenizer_class = "BertTokenizer"
    block = "transformer.layer.{}."
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.token": "embeddings.word_embeddings.weight",
        "embeddings.position": "embeddings.position_embeddings.weight",
        "embeddings.norm": "embeddings.LayerNorm",
        "attention.output": "attention.out_lin",
        "attention.norm": "sa_layer_norm",
        "mlp.up": "ffn.lin1",
        "mlp.down": "ffn.lin2",
        "mlp.norm": "output_layer_norm",
    }
    qkv = ("attention.q_lin", "attention.k_lin", "attention.v_lin")

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        sizes = {"n_layers": 2, "dim": 32, "n_heads": 4, "hidden_dim": 48}
        return {"vocab_size": EXAMPLE_VOCABULARY, "max_position_embeddings": 32, **sizes}

    def spec(self, config: Mapping[str, Any], tensors: Collection[str]) -> EncoderSpec:
        fields = Fields(config)
        fields.require(quantization_config=None, pruned_heads={})
        return EncoderSpec(
            blocks=fields.integer("n_layers"),
            width=fields.integer("dim"),
            heads=fields.integer("n_heads"),
            mlp_width=fields.integer("hidden_dim"),
            vocabulary=fields.integer("vocab_size"),
            positions=fields.integer("max_position_embeddings"),
            segments=0,
            activation=fields.choice("activation", ACTIVATIONS, "gelu"),
            pooler=False,
        )
