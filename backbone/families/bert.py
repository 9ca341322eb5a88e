"""BERT, MiniLM and sentence-transformers built on them (`model_type: bert`).

Source: Devlin et al. 2018 (arXiv 1810.04805); tensor names as in transformers' `BertModel`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from backbone.families.family import Fields, rename
from backbone.spec import EncoderSpec

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}

_NAMES = {
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

_LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight"}


class Bert:
    """See `backbone.families.family.Family`."""

    name = "bert"
    prefix = "bert"

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
        return EncoderSpec(
            blocks=fields.integer("num_hidden_layers"),
            width=fields.integer("hidden_size"),
            heads=fields.integer("num_attention_heads"),
            mlp_width=fields.integer("intermediate_size"),
            vocabulary=fields.integer("vocab_size"),
            positions=fields.integer("max_position_embeddings"),
            segments=fields.integer("type_vocab_size", 2),
            activation=fields.choice("hidden_act", _ACTIVATIONS, "gelu"),
            norm_epsilon=fields.number("layer_norm_eps", 1e-12),
            pooler="pooler.dense.weight" in tensors,
        )

    def tensor_name(self, name: str) -> str:
        return rename(
            name,
            ((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
        )

    def is_ignored(self, name: str) -> bool:
        return name == "embeddings.position_ids" or name.startswith("cls.")

    def sources(self, path: str) -> tuple[str, ...]:
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", path)
        prefix, rest = (f"encoder.layer.{block[1]}.", block[2]) if block else ("", path)
        if rest in _NAMES:
            return (prefix + _NAMES[rest],)
        module, leaf = rest.rsplit(".", 1)
        if module == "attention.qkv":
            return tuple(f"{prefix}attention.self.{part}.{_LEAVES[leaf]}" for part in ("query", "key", "value"))
        return (f"{prefix}{_NAMES[module]}.{_LEAVES[leaf]}",)

    def site_module(self, block: int, site: str) -> str:
        kind, part = site.split("/")
        if part in ("query", "key", "value"):
            return f"encoder.layer.{block}.attention.self.{part}"
        return f"encoder.layer.{block}.{_NAMES[f'{kind}.{part}']}"

    def convert(self, path: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
        if path.endswith(".kernel"):
            return np.concatenate([np.ascontiguousarray(t.T) for t in tensors], axis=1)
        return np.concatenate(tensors) if len(tensors) > 1 else np.asarray(tensors[0])

    def config(self, spec: EncoderSpec, *, masked: bool) -> dict[str, Any]:
        return {
            "architectures": ["BertForMaskedLM" if masked else "BertModel"],
            "model_type": self.name,
            "hidden_size": spec.width,
            "num_hidden_layers": spec.blocks,
            "num_attention_heads": spec.heads,
            "intermediate_size": spec.mlp_width,
            "vocab_size": spec.vocabulary,
            "max_position_embeddings": spec.positions,
            "type_vocab_size": spec.segments,
            "hidden_act": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == spec.activation),
            "layer_norm_eps": spec.norm_epsilon,
            "position_embedding_type": "absolute",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "tie_word_embeddings": True,
        }

    def release(self, path: str, array: np.ndarray) -> dict[str, np.ndarray]:
        names = self.sources(path)
        parts = np.split(array, len(names), axis=-1)
        return dict(zip(names, (part.T for part in parts) if path.endswith(".kernel") else parts, strict=True))

    def release_head(self, head: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {
            "cls.predictions.transform.dense.weight": np.asarray(head["dense"]["kernel"]).T,
            "cls.predictions.transform.dense.bias": np.asarray(head["dense"]["bias"]),
            "cls.predictions.transform.LayerNorm.weight": np.asarray(head["norm"]["scale"]),
            "cls.predictions.transform.LayerNorm.bias": np.asarray(head["norm"]["bias"]),
            "cls.predictions.bias": np.asarray(head["decoder"]["bias"]),
        }


BERT = Bert()
