"""PEFT's IA3: one vector a layer, [O, 1] where it scales outputs and [1, I] where it scales inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adapters.export.peft.codec import Adapter, Fields, Folder
from adapters.export.peft.layers import PREFIX, Layer, Tensors, nested, read_layers
from adapters.methods.ia3 import IA3
from adapters.model import GraftModel
from adapters.patterns import Site, covering, sites_of
from backbone.errors import InputError
from backbone.network.sites import LINEAR
from backbone.storage import Backbone
from backbone.trees import Params

VECTOR = "ia3_l"
BERTS = ("bert", "roberta")
TARGETS = ("key", "value", "output.dense")


class IA3Codec:
    """See `adapters.export.peft.codec.Codec`."""

    title = "IA3"
    peft_type = "IA3"
    methods: tuple[str, ...] = (IA3.tag,)
    kind: tuple[str, ...] = LINEAR
    unused: Mapping[str, tuple[Any, ...]] = {}
    used: frozenset[str] = frozenset({"feedforward_modules", "fan_in_fan_out", "init_ia3_weights"})
    default_targets: Mapping[str, Sequence[str]] = dict.fromkeys(BERTS, TARGETS)

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, layers: Sequence[Layer]
    ) -> tuple[Tensors, Fields]:
        sides = model.site_parts[IA3.tag][1]
        tensors: Tensors = {}
        inputs = []
        for layer in layers:
            here = [sides.get(site) for site in layer.sites]
            scales = [
                np.ones(site.outputs, np.float32) if side is None else _scale(leaves, site)
                for site, side in zip(layer.sites, here, strict=True)
            ]
            if "input" not in here:
                tensors[f"{PREFIX}{layer.name}.{VECTOR}"] = np.concatenate(scales)[:, None]
                continue
            if set(here) != {"input"} or any(not np.array_equal(scale, scales[0]) for scale in scales):
                raise InputError(
                    f"{layer.name}: one layer in PEFT, which scales its input for all of its parts or none"
                )
            tensors[f"{PREFIX}{layer.name}.{VECTOR}"] = scales[0][None]
            inputs.append(layer.name)
        return tensors, {"feedforward_modules": sorted(inputs), "fan_in_fan_out": False}

    def read(self, folder: Folder, left: Tensors, backbone: Backbone) -> Adapter:
        by_layer = read_layers(folder.path, folder.chosen, left, backbone, LINEAR, (VECTOR,), _misfit)
        vectors: dict[Site, np.ndarray] = {}
        inputs: set[Site] = set()
        for layer, (vector,) in by_layer.items():
            if len(vector) == 1:
                inputs |= set(layer.sites)
                vectors |= dict.fromkeys(layer.sites, vector)
            else:
                vectors |= dict(zip(layer.sites, layer.parts(vector), strict=True))
        sites = [site for site in sites_of(backbone.spec, LINEAR) if site in vectors]
        names, blocks = covering(tuple(sites), backbone.spec)
        by_name = names[0] in LINEAR and not {s.name for s in inputs} & {s.name for s in sites if s not in inputs}

        def patterns(side: bool) -> tuple[str, ...]:
            there = [site for site in sites if (site in inputs) == side]
            return tuple(dict.fromkeys(site.name if by_name else site.full_name for site in there))

        method = IA3(patterns(False), patterns(True), blocks if by_name else "")
        leaves = {site: {"scale": np.ascontiguousarray(v.reshape(-1))} for site, v in vectors.items()}
        return Adapter((method,), {IA3.tag: nested(leaves, sites)})


def _scale(leaves: Params, site: Site) -> np.ndarray:
    return np.asarray(leaves[str(site.block)][site.name]["scale"], np.float32)


def _misfit(layer: Layer, tensors: Sequence[np.ndarray]) -> str:
    shape = tensors[0].shape
    if shape not in ((layer.outputs, 1), (1, layer.inputs)):
        return f"{shape} does not fit a layer {layer.inputs} -> {layer.outputs}"
    return ""
