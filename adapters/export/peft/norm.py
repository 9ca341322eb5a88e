"""PEFT's LN_TUNING: whole scales and biases there, differences from the backbone's here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.export.peft.codec import PREFIX, Fields, Tensors, by_site, nested
from adapters.merging import node_at
from adapters.methods.norm import Norm
from adapters.model import GraftModel
from adapters.patterns import Site, covering
from backbone.sites import NORM
from backbone.storage import Backbone
from backbone.trees import Params

PAIRS = {"scale": "ln_tuning_layers.weight", "bias": "ln_tuning_layers.bias"}

UNUSED: dict[str, tuple[Any, ...]] = {}


class NormCodec:
    """See `adapters.export.peft.codec.Codec`."""

    title = "LayerNorm tuning"
    peft_type = "LN_TUNING"
    methods: tuple[str, ...] = (Norm.tag,)
    unused = UNUSED

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, module: Callable[[Site], str]
    ) -> tuple[Tensors, Fields]:
        tensors: Tensors = {}
        for site in model.site_parts[Norm.tag][1]:
            differences = leaves[str(site.block)][site.name]
            for here, there in PAIRS.items():
                whole = _backbones(backbone, site, here) + np.asarray(differences[here], np.float32)
                tensors[f"{PREFIX}{module(site)}.{there}"] = whole
        return tensors, {}

    def read(self, source: Path, config: Fields, left: Tensors, backbone: Backbone) -> tuple[Norm, Params]:
        pairs = by_site(source, left, backbone, NORM, tuple(PAIRS.values()), _misfit)
        sites, blocks = covering(tuple(pairs), backbone.spec)
        leaves = {
            site: {here: whole - _backbones(backbone, site, here) for here, whole in zip(PAIRS, tensors, strict=True)}
            for site, tensors in pairs.items()
        }
        return Norm(sites, blocks), nested(leaves)


def _backbones(backbone: Backbone, site: Site, leaf: str) -> np.ndarray:
    return np.asarray(node_at(backbone.params["blocks"][str(site.block)], site)[leaf], np.float32)


def _misfit(site: Site, tensors: Sequence[np.ndarray]) -> str:
    wrong = [str(tensor.shape) for tensor in tensors if tensor.shape != (site.outputs,)]
    return f"{', '.join(wrong)} does not fit a width of {site.outputs}" if wrong else ""
