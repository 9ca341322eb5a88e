"""PEFT's VERA: the vectors d and b of each layer.

The shared matrices travel as PEFT's seed, and beside it in full. An export writes the matrices for PEFT. An import
checks that the seed draws them, because a graft keeps the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from adapters.export.peft.codec import CONFIG, PREFIX, WEIGHTS, Fields, Tensors, by_site, nested, transposed
from adapters.methods.vera import Vera, draw_projections
from adapters.model import GraftModel
from adapters.patterns import Site, covering
from backbone.errors import InputError
from backbone.sites import LINEAR
from backbone.storage import Backbone
from backbone.trees import Params

VECTORS = ("vera_lambda_d", "vera_lambda_b")
SHARED = ("base_model.vera_A", "base_model.vera_B")

UNUSED: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "vera_dropout": (0, None),
}


class VeraCodec:
    """See `adapters.export.peft.codec.Codec`."""

    title = "VeRA"
    peft_type = "VERA"
    methods: tuple[str, ...] = (Vera.tag,)
    unused = UNUSED

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, module: Callable[[Site], str]
    ) -> tuple[Tensors, Fields]:
        vera = cast(Vera, model.methods[0])
        settings = model.site_parts[Vera.tag][1]
        tensors: Tensors = {}
        for site in settings:
            for there, here in zip(VECTORS, "db", strict=True):
                leaf = leaves[str(site.block)][site.name][here]
                tensors[f"{PREFIX}{module(site)}.{there}"] = np.asarray(leaf, np.float32)
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

    def read(self, source: Path, config: Fields, left: Tensors, backbone: Backbone) -> tuple[Vera, Params]:
        rank, seed = config.get("r"), config.get("projection_prng_key")
        if not isinstance(rank, int) or not isinstance(seed, int):
            raise InputError(f"{source / CONFIG}: r and projection_prng_key: expected integers, got {rank!r}, {seed!r}")

        def misfit(site: Site, tensors: Sequence[np.ndarray]) -> str:
            d, b = tensors
            fits = d.shape == (rank,) and b.shape == (site.outputs,)
            return "" if fits else f"d {d.shape}, b {b.shape} do not fit rank {rank} and {site.outputs} output units"

        vectors = by_site(source, left, backbone, LINEAR, VECTORS, misfit)
        sites, blocks = covering(tuple(vectors), backbone.spec)
        vera = Vera(rank, sites, seed, float(config.get("d_initial") or 0.1), blocks)
        shared = draw_projections(rank, max(s.inputs for s in vectors), max(s.outputs for s in vectors), seed)
        for name, drawn in zip(SHARED, shared, strict=True):
            stored = left.pop(name, None)
            if stored is not None and (stored.shape != drawn.T.shape or np.abs(stored - drawn.T).max() > 1e-6):
                raise InputError(
                    f"{source / WEIGHTS}: {name}: not what projection_prng_key={seed} draws for these layers; a graft "
                    "keeps VeRA's matrices as their seed"
                )
        return vera, nested({site: {"d": d, "b": b} for site, (d, b) in vectors.items()})
