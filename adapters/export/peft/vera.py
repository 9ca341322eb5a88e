"""PEFT's VERA: the vectors d and b of each layer.

The shared matrices travel as PEFT's seed, and beside it in full. An export writes the matrices for PEFT. An import
checks that the seed draws them, because a graft keeps the seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from adapters.export.peft.codec import Adapter, Fields, Folder
from adapters.export.peft.layers import PREFIX, WEIGHTS, Layer, Tensors, nested, read_layers, transposed
from adapters.export.peft.names import number
from adapters.methods.vera import Vera, draw_projections
from adapters.model import GraftModel
from adapters.patterns import Site, covering, sites_of
from backbone.errors import InputError
from backbone.network.sites import LINEAR
from backbone.storage import Backbone
from backbone.trees import Params

VECTORS = ("vera_lambda_d", "vera_lambda_b")
SHARED = ("base_model.vera_A", "base_model.vera_B")
FUSED = "holds query, key and value, for which VeRA draws one matrix; a graft draws one for each"
TARGETS = ("query", "value")


class VeraCodec:
    """See `adapters.export.peft.codec.Codec`."""

    title = "VeRA"
    peft_type = "VERA"
    methods: tuple[str, ...] = (Vera.tag,)
    kind: tuple[str, ...] = LINEAR
    unused: Mapping[str, tuple[Any, ...]] = {"bias": ("none", None)}
    used: frozenset[str] = frozenset(
        {"r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "fan_in_fan_out", "init_weights"}
    )
    default_targets: Mapping[str, Sequence[str]] = dict.fromkeys(("bert", "roberta", "xlm-roberta"), TARGETS)

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, layers: Sequence[Layer]
    ) -> tuple[Tensors, Fields]:
        vera = cast(Vera, model.methods[0])
        settings = model.site_parts[Vera.tag][1]
        tensors: Tensors = {}
        for layer in layers:
            if len(layer.sites) > 1:
                raise InputError(f"{layer.name}: {FUSED}")
            (site,) = layer.sites
            for there, here in zip(VECTORS, "db", strict=True):
                leaf = leaves[str(site.block)][site.name][here]
                tensors[f"{PREFIX}{layer.name}.{there}"] = np.asarray(leaf, np.float32)
        shared = draw_projections(vera.rank, *next(iter(settings.values())).widest, vera.seed)
        tensors |= {name: transposed(matrix) for name, matrix in zip(SHARED, shared, strict=True)}
        return tensors, {
            "r": vera.rank,
            "projection_prng_key": vera.seed,
            "save_projection": True,
            "d_initial": vera.d_start,
            "vera_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
        }

    def read(self, folder: Folder, left: Tensors, backbone: Backbone) -> Adapter:
        rank, seed = folder.config.get("r"), folder.config.get("projection_prng_key")
        if type(rank) is not int or type(seed) is not int:
            raise InputError(f"{folder.file}: r and projection_prng_key: expected integers, got {rank!r}, {seed!r}")

        def misfit(layer: Layer, tensors: Sequence[np.ndarray]) -> str:
            d, b = tensors
            if len(layer.sites) > 1:
                return FUSED
            fits = d.shape == (rank,) and b.shape == (layer.outputs,)
            return "" if fits else f"d {d.shape}, b {b.shape} do not fit rank {rank} and {layer.outputs} output units"

        by_layer = read_layers(folder.path, folder.chosen, left, backbone, LINEAR, VECTORS, misfit)
        leaves: dict[Site, Params] = {layer.sites[0]: {"d": d, "b": b} for layer, (d, b) in by_layer.items()}
        sites = [site for site in sites_of(backbone.spec, LINEAR) if site in leaves]
        names, blocks = covering(tuple(sites), backbone.spec)
        vera = Vera(rank, names, seed, number(folder.config, "d_initial", 0.1, folder.file), blocks)
        shared = draw_projections(rank, max(s.inputs for s in sites), max(s.outputs for s in sites), seed)
        for name, drawn in zip(SHARED, shared, strict=True):
            stored = left.pop(name, None)
            if stored is not None and (stored.shape != drawn.T.shape or np.abs(stored - drawn.T).max() > 1e-6):
                raise InputError(
                    f"{folder.path / WEIGHTS}: {name}: not what projection_prng_key={seed} draws for these layers; a "
                    "graft keeps VeRA's matrices as their seed"
                )
        dropout = folder.config.get("vera_dropout")
        notes = (f"{folder.file}: vera_dropout {dropout}: left out, it acts in training only",) if dropout else ()
        return Adapter((vera,), {Vera.tag: nested(leaves, sites)}, notes)
