"""ModernBERT (`model_type: modernbert`): pre-norm, gated mlp, rotary positions, local attention in most blocks.

Block 0 has no attention norm, since the embeddings were normalised just before. There are no biases.
`local_attention` counts both sides: a token sees `local_attention // 2` others on either side.

Source: Warner et al. 2024 (arXiv 2412.13663); tensor names as in transformers' `ModernBertModel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from backbone.errors import InputError
from backbone.families.family import ACTIVATIONS, EXAMPLE_SIZES, EXAMPLE_VOCABULARY, Family, Fields
from backbone.spec import EncoderSpec

_FULL, _LOCAL = "full_attention", "sliding_attention"


class ModernBert(Family, tag="modernbert"):
    """ModernBERT; our biases have no source there and become zeros."""

    task_prefix = "model"
    ignored = r"head\.|decoder\.|classifier\.|qa_outputs\.|(.+\.)?rotary_emb\."
    block = "layers.{}."
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.token": "embeddings.tok_embeddings.weight",
        "embeddings.norm": "embeddings.norm",
        "attention.norm": "attn_norm",
        "attention.output": "attn.Wo",
        "mlp.norm": "mlp_norm",
        "mlp.up": "mlp.Wi",
        "mlp.down": "mlp.Wo",
        "finish.norm": "final_norm",
    }
    qkv = ("attn.Wqkv",)

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        return {
            "vocab_size": EXAMPLE_VOCABULARY,
            "max_position_embeddings": 32,
            "local_attention": 8,
            "layer_types": [_FULL, _LOCAL],
            "rope_parameters": {
                _FULL: {"rope_type": "default", "rope_theta": 160000.0},
                _LOCAL: {"rope_type": "default", "rope_theta": 100.0},
            },
            "pad_token_id": 0,
            **EXAMPLE_SIZES,
        }

    def sources(self, path: str) -> tuple[str, ...]:
        return () if path.endswith(".bias") else super().sources(path)

    def spec(self, config: Mapping[str, Any], tensors: Collection[str]) -> EncoderSpec:
        fields = Fields(config)
        fields.require(attention_bias=False, mlp_bias=False, norm_bias=False, quantization_config=None)
        blocks = fields.integer("num_hidden_layers")
        local = _local_blocks(config, fields, blocks)
        window = fields.integer("local_attention", 128) // 2
        if any(local) and window < 1:
            raise InputError(f"config.json: local_attention: must be at least 2, got {config['local_attention']}")
        theta = _theta(config, fields, _FULL, "global_rope_theta", 160_000.0)
        return EncoderSpec(
            blocks=blocks,
            width=fields.integer("hidden_size"),
            heads=fields.integer("num_attention_heads"),
            mlp_width=fields.integer("intermediate_size"),
            vocabulary=fields.integer("vocab_size"),
            positions=fields.integer("max_position_embeddings"),
            segments=0,
            activation=fields.choice("hidden_activation", ACTIVATIONS, "gelu"),
            norm_epsilon=fields.number("norm_eps", 1e-5),
            pooler=False,
            norm="pre",
            first_norm=False,
            mlp="gated",
            rotary_theta=theta,
            local_theta=_theta(config, fields, _LOCAL, "local_rope_theta", theta) if any(local) else 0.0,
            windows=tuple(window if here else 0 for here in local),
        )


def _local_blocks(config: Mapping[str, Any], fields: Fields, blocks: int) -> list[bool]:
    """Returns for each block whether it sees a window only; older configs give a period instead of `layer_types`."""
    kinds = config.get("layer_types")
    if kinds is None:
        every = fields.integer("global_attn_every_n_layers", 3)
        if every < 1:
            raise InputError(f"config.json: global_attn_every_n_layers: must be at least 1, got {every}")
        return [bool(block % every) for block in range(blocks)]
    if not isinstance(kinds, list) or len(kinds) != blocks or not set(kinds) <= {_FULL, _LOCAL}:
        raise InputError(f"config.json: layer_types: expected {blocks} of {_FULL} or {_LOCAL}, got {kinds!r}")
    return [kind == _LOCAL for kind in kinds]


def _theta(config: Mapping[str, Any], fields: Fields, kind: str, older: str, default: float) -> float:
    """Returns the rotary base of a kind of block, from `rope_parameters` or from the field `older` of older configs."""
    fields.require(rope_scaling=None)
    parameters = config.get("rope_parameters") or {}
    stated = (parameters.get(kind) or {}) if isinstance(parameters, Mapping) else None
    if not isinstance(stated, Mapping):
        raise InputError(f"config.json: rope_parameters: expected an object for each kind of layer, got {parameters!r}")
    if stated.get("rope_type", "default") != "default":
        raise InputError(
            f"config.json: rope_parameters.{kind}.rope_type: {stated['rope_type']!r} is not supported; only default is"
        )
    if config.get(older) is None and "rope_theta" not in stated:
        return default
    return Fields({older: stated.get("rope_theta", config.get(older))}).number(older)
