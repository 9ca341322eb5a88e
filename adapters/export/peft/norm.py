"""PEFT's LN_TUNING: whole scales and biases there, differences from the backbone's here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adapters.export.peft.codec import Adapter, Fields, Folder
from adapters.export.peft.layers import PREFIX, Layer, Tensors, family_of, nested, read_layers
from adapters.merging import node_at
from adapters.methods.norm import Norm
from adapters.model import GraftModel
from adapters.patterns import Site, covering, sites_of
from backbone.errors import InputError
from backbone.network.sites import NORM
from backbone.storage import Backbone
from backbone.trees import Params

PAIRS = {"scale": "ln_tuning_layers.weight", "bias": "ln_tuning_layers.bias"}


class NormCodec:
    """See `adapters.export.peft.codec.Codec`."""

    title = "LayerNorm tuning"
    peft_type = "LN_TUNING"
    methods: tuple[str, ...] = (Norm.tag,)
    kind: tuple[str, ...] = NORM
    unused: Mapping[str, tuple[Any, ...]] = {}
    used: frozenset[str] = frozenset()
    default_targets: Mapping[str, Sequence[str]] = {}

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, layers: Sequence[Layer]
    ) -> tuple[Tensors, Fields]:
        tensors: Tensors = {}
        for layer in layers:
            (site,) = layer.sites
            differences = leaves[str(site.block)][site.name]
            published = _published(backbone)
            for here, there in PAIRS.items():
                difference = np.asarray(differences[here], np.float32)
                if here in published:
                    tensors[f"{PREFIX}{layer.name}.{there}"] = _backbones(backbone, site, here) + difference
                elif difference.any():
                    raise InputError(f"{layer.name}: has no bias in transformers; PEFT has no place for a tuned one")
        return tensors, {}

    def read(self, folder: Folder, left: Tensors, backbone: Backbone) -> Adapter:
        published = _published(backbone)
        names = tuple(PAIRS[here] for here in published)
        by_layer = read_layers(folder.path, folder.chosen, left, backbone, NORM, names, _misfit)
        leaves: dict[Site, Params] = {}
        for layer, tensors in by_layer.items():
            (site,) = layer.sites
            whole = dict(zip(published, tensors, strict=True))
            leaves[site] = {here: whole[here] - _backbones(backbone, site, here) for here in published}
            leaves[site] |= {here: np.zeros(site.outputs, np.float32) for here in PAIRS if here not in whole}
        sites = [site for site in sites_of(backbone.spec, NORM) if site in leaves]
        return Adapter((Norm(*covering(tuple(sites), backbone.spec)),), {Norm.tag: nested(leaves, sites)})


def _published(backbone: Backbone) -> tuple[str, ...]:
    """Returns which of scale and bias the family's norms have."""
    family = family_of(backbone)
    return tuple(here for here in PAIRS if family.sources(f"blocks.0.mlp.norm.{here}"))


def _backbones(backbone: Backbone, site: Site, leaf: str) -> np.ndarray:
    return np.asarray(node_at(backbone.network.block_weights(backbone.params, site.block), site)[leaf], np.float32)


def _misfit(layer: Layer, tensors: Sequence[np.ndarray]) -> str:
    wrong = [str(tensor.shape) for tensor in tensors if tensor.shape != (layer.outputs,)]
    return f"{', '.join(wrong)} does not fit a width of {layer.outputs}" if wrong else ""
