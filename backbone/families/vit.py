"""ViT and DeiT (`model_type: vit`, `deit`): images, pre-norm, a class token, DeiT's distillation token beside it.

Source: Dosovitskiy et al. 2020 (arXiv 2010.11929), Touvron et al. 2020 (arXiv 2012.12877); tensor names as in
the files of transformers' `ViTModel` and `DeiTModel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from backbone.errors import InputError
from backbone.families.family import ACTIVATIONS, EXAMPLE_SIZES, Family, Fields
from backbone.spec import EncoderSpec, ImageSpec


class Vit(Family, tag="vit"):
    """ViT; the pixels' mean and deviation come from the preprocessing file, not from the config."""

    task_prefix = "vit"
    task_pooling = "first"
    special: ClassVar[tuple[str, ...]] = ("embeddings.cls_token",)  # learned tokens in front of the patches
    ignored = r"embeddings\.mask_token$|(cls_|distillation_)?classifier\.|decoder\."
    block = "encoder.layer.{}."
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.patch": "embeddings.patch_embeddings.projection",
        "attention.norm": "layernorm_before",
        "attention.output": "attention.output.dense",
        "mlp.norm": "layernorm_after",
        "mlp.up": "intermediate.dense",
        "mlp.down": "output.dense",
        "finish.norm": "layernorm",
        "pooler.dense": "pooler.dense",
    }
    qkv = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
    layers: ClassVar[Mapping[str, str]] = {  # names of transformers 5, whose files keep the ones above
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        return {**EXAMPLE_SIZES, "image_size": 16, "patch_size": 8, "num_channels": 3}

    def site_layers(self, block: int, site: str) -> tuple[str, ...]:
        (former,) = super().site_layers(block, site)
        name = former.removeprefix(self.block.format(block))
        return f"layers.{block}.{self.layers.get(name, name)}", former

    def sources(self, path: str) -> tuple[str, ...]:
        return self.special if path == "embeddings.special" else super().sources(path)

    def convert(self, path: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
        if path in ("embeddings.special", "embeddings.position"):
            return np.concatenate([tensor[0] for tensor in tensors])
        if path == "embeddings.patch.kernel":  # [D,C,p,p], ours [p p C,D]
            kernel = tensors[0].transpose(2, 3, 1, 0)
            return np.ascontiguousarray(kernel.reshape(-1, kernel.shape[-1]))
        return super().convert(path, tensors)

    def spec(self, config: Mapping[str, Any], tensors: Collection[str]) -> EncoderSpec:
        fields = Fields(config)
        fields.require(qkv_bias=True, quantization_config=None, pooler_act="tanh")
        width = fields.integer("hidden_size")
        fields.require(pooler_output_size=width)
        channels = fields.integer("num_channels", 3)
        if channels not in (1, 3):
            raise InputError(f"config.json: num_channels: {channels} is not supported; 1 (grey) or 3 (colour) are")
        image = ImageSpec(
            size=fields.integer("image_size", 224),
            patch=fields.integer("patch_size", 16),
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
            special=len(self.special),
        )
        return EncoderSpec(
            blocks=fields.integer("num_hidden_layers"),
            width=width,
            heads=fields.integer("num_attention_heads"),
            mlp_width=fields.integer("intermediate_size"),
            vocabulary=0,
            positions=image.tokens,
            segments=0,
            activation=fields.choice("hidden_act", ACTIVATIONS, "gelu"),
            norm_epsilon=fields.number("layer_norm_eps", 1e-12),
            pooler="pooler.dense.weight" in tensors,
            norm="pre",
            embedding_norm=False,
            image=image,
        )


class Deit(Vit, tag="deit"):
    """DeiT: ViT with a second learned token, for distillation."""

    task_prefix = "deit"
    special = (*Vit.special, "embeddings.distillation_token")

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        return super().example_config() | {"num_channels": 1}
