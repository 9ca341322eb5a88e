"""PEFT's LORA: A is [r, I] and B [O, r] there, [I, r] and [r, O] here.

DoRA's magnitude is ||W|| times ours there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from adapters.export.peft.codec import PREFIX, WEIGHTS, Fields, Tensors, by_site, family_of, nested, transposed
from adapters.merging import site_weights
from adapters.methods.dora import Dora
from adapters.methods.lora import Lora, LoraSetting
from adapters.model import GraftModel
from adapters.patterns import Site
from backbone.errors import InputError
from backbone.sites import LINEAR
from backbone.storage import Backbone
from backbone.trees import Params

MATRICES, MAGNITUDE = ("lora_A.weight", "lora_B.weight"), "lora_magnitude_vector"

UNUSED: dict[str, tuple[Any, ...]] = {
    # other ways of initialising change the base weights too; PEFT converts their folders to plain ones with
    # save_pretrained(..., path_initial_model_for_weight_conversion=PATH_OF_THE_INITIAL_ADAPTER)
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
}


class LoraCodec:
    """See `adapters.export.peft.codec.Codec`."""

    title = "LoRA"
    peft_type = "LORA"
    methods: tuple[str, ...] = (Lora.tag, Dora.tag)
    unused = UNUSED

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, module: Callable[[Site], str]
    ) -> tuple[Tensors, Fields]:
        lora = cast(Lora, model.methods[0])
        settings: dict[Site, LoraSetting] = model.site_parts[lora.tag][1]
        root = lora.scaling == "rank_stabilised"
        tensors: Tensors = {}
        ranks: dict[str, int] = {}
        alphas: dict[str, float] = {}
        for site, setting in settings.items():
            name, here = module(site), leaves[str(site.block)][site.name]
            for there, leaf in zip(MATRICES, "ab", strict=True):
                tensors[f"{PREFIX}{name}.{there}"] = transposed(here[leaf])
            if lora.has_magnitude:
                magnitude = np.asarray(here["magnitude"], np.float32) * lengths(backbone, site)
                tensors[f"{PREFIX}{name}.{MAGNITUDE}"] = magnitude
            alpha = setting.scale * (setting.rank**0.5 if root else setting.rank)
            if setting.rank != lora.rank:
                ranks[name] = setting.rank
            if abs(alpha - lora.alpha) > 1e-9 * lora.alpha:
                alphas[name] = round(alpha, 9)
        return tensors, {
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "use_rslora": root,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "bias": "none",
            "fan_in_fan_out": False,
            "use_dora": lora.has_magnitude,
        }

    def read(self, source: Path, config: Fields, left: Tensors, backbone: Backbone) -> tuple[Lora, Params]:
        dora = bool(config.get("use_dora"))
        names = (*MATRICES, MAGNITUDE) if dora else MATRICES
        matrices = by_site(source, left, backbone, LINEAR, names, _misfit)
        family = family_of(backbone)
        prefix = family.task_prefix
        module = {site: family.site_module(site.block, site.name) or "" for site in matrices}
        leaves: dict[Site, Params] = {}
        for site, (a, b, *magnitude) in matrices.items():
            leaves[site] = {"a": np.ascontiguousarray(a.T), "b": np.ascontiguousarray(b.T)}
            if magnitude:
                leaves[site]["magnitude"] = _relative(source, backbone, site, magnitude[0])
        lora = (Dora if dora else Lora).with_ranks(
            {site: (len(a), _alpha_of(config, prefix, module[site])) for site, (a, *_) in matrices.items()},
            backbone.spec,
            scaling="rank_stabilised" if config.get("use_rslora") else "standard",
            dropout=float(config.get("lora_dropout") or 0.0),
        )
        return lora, nested(leaves)


def lengths(backbone: Backbone, site: Site) -> np.ndarray:
    """Returns ||W|| of each output unit, float32 [O]."""
    node, part = site_weights(backbone.params["blocks"][str(site.block)], site)
    return np.asarray(np.linalg.norm(np.asarray(node["kernel"], np.float32)[:, part], axis=0))


def _relative(source: Path, backbone: Backbone, site: Site, magnitude: np.ndarray) -> np.ndarray:
    norms = lengths(backbone, site)
    if np.any(magnitude[norms == 0] != 0):
        raise InputError(f"{source / WEIGHTS}: {site.full_name}: a magnitude for an output unit without weights")
    return np.where(norms == 0, 1, magnitude / np.where(norms == 0, 1, norms)).astype(np.float32)


def _misfit(site: Site, tensors: Sequence[np.ndarray]) -> str:
    a, b, *magnitude = tensors
    if a.ndim != 2 or a.shape[1] != site.inputs or b.shape != (site.outputs, len(a)):
        return f"A {a.shape}, B {b.shape} do not fit a layer {site.inputs} -> {site.outputs}"
    if magnitude and magnitude[0].shape != (site.outputs,):
        return f"magnitude {magnitude[0].shape} does not fit {site.outputs} output units"
    return ""


def _alpha_of(config: Fields, prefix: str, module: str) -> float:
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in (module, f"{prefix}.{module}")):
            return float(alpha)
    return float(config.get("lora_alpha", 8))
