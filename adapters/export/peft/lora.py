"""PEFT's LORA: A is [r, I] and B [O, r] there, [I, r] and [r, O] here.

DoRA's magnitude is ||W|| times ours there. A layer that is query, key and value at once (ModernBERT's `Wqkv`) has one A
and one B. Each site then takes A whole and its rows of B. The other way, the sites' matrices become blocks:

    A = [A_q; A_k; A_v] [3r, I],   B = diag(B_q, B_k, B_v) [3 O, 3r]

where sites with the same A share its rows, so that an imported graft is exported as it came.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from adapters.export.peft.codec import Adapter, Fields, Folder
from adapters.export.peft.layers import PREFIX, WEIGHTS, Layer, Tensors, nested, read_layers, transposed
from adapters.export.peft.names import Pattern, number
from adapters.merging import site_weights
from adapters.methods.bias import Bias
from adapters.methods.dora import Dora
from adapters.methods.lora import Lora, LoraSetting
from adapters.methods.method import SiteMethod
from adapters.model import GraftModel
from adapters.patterns import Site, covering, sites_of
from backbone.errors import InputError
from backbone.network.sites import LINEAR
from backbone.network.stored import dense
from backbone.storage import Backbone
from backbone.trees import Params

MATRICES, MAGNITUDE = ("lora_A.weight", "lora_B.weight"), "lora_magnitude_vector"
OWN_BIAS, B_BIAS = "base_layer.bias", "lora_B.bias"  # whole bias of the layer with bias=lora_only; bias of B


class LoraCodec:
    """See `adapters.export.peft.codec.Codec`."""

    title = "LoRA"
    peft_type = "LORA"
    methods: tuple[str, ...] = (Lora.tag, Dora.tag)
    kind: tuple[str, ...] = LINEAR
    unused: Mapping[str, tuple[Any, ...]] = {
        "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),  # others change W
        "bias": ("none", "lora_only", None),
        "layer_replication": (None, []),
        "trainable_token_indices": (None, [], {}),
        "target_parameters": (None, []),
        "use_qalora": (False, None),
        "use_bdlora": (False, None),
        "alora_invocation_tokens": (None, []),
        "arrow_config": (None,),
        "kasa_config": (None,),
        "velora_config": (None,),
        "monteclora_config": (None,),
        "megatron_config": (None,),
        "enable_lora": (None,),
    }
    used: frozenset[str] = frozenset(
        {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias"}
        | {"fan_in_fan_out", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"}
        | {"qalora_group_size", "runtime_config", "ensure_weight_tying", "merge_weights"}
    )
    default_targets: Mapping[str, Sequence[str]] = dict.fromkeys(("bert", "roberta", "xlm-roberta"), ("query", "value"))

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, layers: Sequence[Layer]
    ) -> tuple[Tensors, Fields]:
        lora = cast(Lora, model.methods[0])
        settings: dict[Site, LoraSetting] = model.site_parts[lora.tag][1]
        pairs = [_joined(layer, settings, leaves) for layer in layers]
        root = lora.scaling == "rank_stabilised"
        tensors: Tensors = {}
        for pair in pairs:
            tensors |= {f"{PREFIX}{pair.layer.name}.{n}": m for n, m in zip(MATRICES, (pair.a, pair.b), strict=True)}
            if lora.has_magnitude:
                tensors[f"{PREFIX}{pair.layer.name}.{MAGNITUDE}"] = _magnitude(pair.layer, leaves, backbone)
        return tensors, _ranks(pairs, root, lora.alpha) | {
            "lora_dropout": lora.dropout,
            "use_rslora": root,
            "bias": "none",
            "fan_in_fan_out": False,
            "use_dora": lora.has_magnitude,
        }

    def read(self, folder: Folder, left: Tensors, backbone: Backbone) -> Adapter:
        config = folder.config
        ranks = Pattern.of(config, "rank_pattern", "r", 8, folder.file)
        alphas = Pattern.of(config, "alpha_pattern", "lora_alpha", 8, folder.file)

        def misfit(layer: Layer, tensors: Sequence[np.ndarray]) -> str:
            return _misfit(layer, tensors, ranks(layer.name))

        dora, root = bool(config.get("use_dora")), bool(config.get("use_rslora"))
        names = (*MATRICES, MAGNITUDE) if dora else MATRICES
        matrices = read_layers(folder.path, folder.chosen, left, backbone, LINEAR, names, misfit)
        leaves: dict[Site, Params] = {}
        settings: dict[Site, tuple[int, float]] = {}
        deltas: dict[Site, np.ndarray] = {}
        for layer, (a, b, *magnitude) in matrices.items():
            alpha = alphas(layer.name)
            scale = alpha / (math.sqrt(len(a)) if root else len(a))
            for site, rows in zip(layer.sites, layer.parts(b), strict=True):
                leaves[site] = {"a": np.ascontiguousarray(a.T), "b": np.ascontiguousarray(rows.T)}
                settings[site] = len(a), alpha
            if magnitude:
                for site, part in zip(layer.sites, layer.parts(magnitude[0]), strict=True):
                    leaves[site]["magnitude"] = _relative(folder, backbone, site, part)
            deltas |= _biases(folder, layer, scale, left, backbone)
        sites = [site for site in sites_of(backbone.spec, LINEAR) if site in leaves]
        lora = (Dora if dora else Lora).with_ranks(
            {site: settings[site] for site in sites},
            backbone.spec,
            scaling="rank_stabilised" if root else "standard",
            dropout=number(config, "lora_dropout", 0.0, folder.file),
        )
        methods: tuple[SiteMethod, ...] = (lora,)
        trees = {lora.tag: nested(leaves, sites)}
        if deltas:
            moved = [site for site in sites if site in deltas]
            methods += (Bias(*covering(tuple(moved), backbone.spec)),)
            trees[Bias.tag] = nested({site: {"delta": delta} for site, delta in deltas.items()}, moved)
        adapted = [layer.name for layer in matrices]
        return Adapter(methods, trees, ranks.unmatched(adapted) + alphas.unmatched(adapted))


@dataclass(frozen=True)
class Pair:
    """A and B of one layer as PEFT has them, and the factor of their product."""

    layer: Layer
    a: np.ndarray  # [r, I], float32
    b: np.ndarray  # [O, r], float32
    scale: float


def _joined(layer: Layer, settings: Mapping[Site, LoraSetting], leaves: Params) -> Pair:
    """Returns the matrices of a layer from those of its sites; sites with the same A share its rows."""
    here = [site for site in layer.sites if site in settings]
    node = {site: leaves[str(site.block)][site.name] for site in here}
    scale = settings[here[0]].scale
    blocks: list[np.ndarray] = []
    places: dict[Site, int] = {}
    for site in here:
        a = transposed(node[site]["a"])
        same = [number for number, block in enumerate(blocks) if np.array_equal(block, a)]
        places[site] = same[0] if same else len(blocks)
        blocks += [] if same else [a]
    starts = np.cumsum([0, *map(len, blocks)])
    b = np.zeros((layer.outputs, starts[-1]), np.float32)
    for site, rows in zip(layer.sites, layer.parts(b), strict=True):
        if site in places:
            columns = slice(*starts[places[site] : places[site] + 2])
            rows[:, columns] = transposed(node[site]["b"]) * np.float32(settings[site].scale / scale)
    return Pair(layer, np.concatenate(blocks), b, scale)


def _ranks(pairs: Sequence[Pair], root: bool, alpha: float) -> Fields:
    """Returns the fields of PEFT's config that give each layer its rank and its scale.

    `alpha` is the graft's; a layer's own within rounding of it is written as that.
    """
    exact = {pair.layer.name: pair.scale * (math.sqrt(len(pair.a)) if root else len(pair.a)) for pair in pairs}
    alphas = {n: alpha if abs(a - alpha) <= 1e-9 * alpha else round(a, 9) for n, a in exact.items()}
    ranks = {pair.layer.name: len(pair.a) for pair in pairs}
    (rank, common), _ = Counter((ranks[name], alphas[name]) for name in ranks).most_common(1)[0]
    return {
        "r": rank,
        "lora_alpha": common,
        "rank_pattern": {name: here for name, here in ranks.items() if here != rank},
        "alpha_pattern": {name: here for name, here in alphas.items() if here != common},
    }


def _magnitude(layer: Layer, leaves: Params, backbone: Backbone) -> np.ndarray:
    """Returns DoRA's magnitude [O]; ||W|| at sites that are not adapted, which changes nothing there."""
    parts = []
    for site in layer.sites:
        here = leaves.get(str(site.block), {}).get(site.name)
        parts.append(lengths(backbone, site) * (1 if here is None else np.asarray(here["magnitude"], np.float32)))
    return np.concatenate(parts)


def uniform(tensors: Tensors, fields: Fields) -> tuple[Tensors, Fields]:
    """Returns a LoRA with one rank and one scale at all layers, which computes the same.

    A and B get zeros up to the largest rank, and B takes the ratio of the scales, since vLLM reads no patterns.
    """
    root = fields["use_rslora"]
    ranks, alphas = fields["rank_pattern"], fields["alpha_pattern"]
    names = [key.removeprefix(PREFIX).removesuffix(f".{MATRICES[0]}") for key in tensors if key.endswith(MATRICES[0])]
    widest = max(ranks.get(name, fields["r"]) for name in names)
    factor = math.sqrt(widest) if root else widest
    common = fields["lora_alpha"] / (math.sqrt(fields["r"]) if root else fields["r"])
    padded = dict(tensors)
    for name in names:
        a, b = (tensors[f"{PREFIX}{name}.{matrix}"] for matrix in MATRICES)
        rank = len(a)
        scale = alphas.get(name, fields["lora_alpha"]) / (math.sqrt(rank) if root else rank)
        padded[f"{PREFIX}{name}.{MATRICES[0]}"] = np.pad(a, ((0, widest - rank), (0, 0)))
        padded[f"{PREFIX}{name}.{MATRICES[1]}"] = np.pad(b * np.float32(scale / common), ((0, 0), (0, widest - rank)))
    return padded, fields | {
        "r": widest,
        "lora_alpha": round(common * factor, 9),
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def lengths(backbone: Backbone, site: Site) -> np.ndarray:
    """Returns ||W|| of each output unit, float32 [O]."""
    node, part = site_weights(backbone.network.block_weights(backbone.params, site.block), site)
    return np.asarray(np.linalg.norm(np.asarray(dense(node["kernel"]))[:, part], axis=0))


def _relative(folder: Folder, backbone: Backbone, site: Site, magnitude: np.ndarray) -> np.ndarray:
    norms = lengths(backbone, site)
    if np.any(magnitude[norms == 0] != 0):
        raise InputError(f"{folder.path / WEIGHTS}: {site.full_name}: a magnitude for an output unit without weights")
    return np.where(norms == 0, 1, magnitude / np.where(norms == 0, 1, norms)).astype(np.float32)


def _biases(folder: Folder, layer: Layer, scale: float, left: Tensors, backbone: Backbone) -> dict[Site, np.ndarray]:
    """Returns what the layer's trained biases add at each site; removes their tensors from `left`."""
    parts: dict[Site, np.ndarray] = {}
    for name in (OWN_BIAS, B_BIAS):
        bias = left.pop(f"{PREFIX}{layer.name}.{name}", None)
        if bias is None:
            continue
        if bias.shape != (layer.outputs,):
            raise InputError(f"{folder.path / WEIGHTS}: {layer.name}.{name}: {bias.shape}, expected {layer.outputs}")
        for site, part in zip(layer.sites, layer.parts(bias), strict=True):
            node, columns = site_weights(backbone.network.block_weights(backbone.params, site.block), site)
            added = part - np.asarray(node["bias"], np.float32)[columns] if name == OWN_BIAS else scale * part
            parts[site] = (parts.get(site, 0) + added).astype(np.float32)
    return parts


def _misfit(layer: Layer, tensors: Sequence[np.ndarray], rank: float) -> str:
    a, b, *magnitude = tensors
    if a.ndim != 2 or a.shape[1] != layer.inputs or b.shape != (layer.outputs, len(a)):
        return f"A {a.shape}, B {b.shape} do not fit a layer {layer.inputs} -> {layer.outputs}"
    if len(a) != rank:
        return f"rank {len(a)}, but r and rank_pattern say {rank:g}"
    if magnitude and magnitude[0].shape != (layer.outputs,):
        return f"magnitude {magnitude[0].shape} does not fit {layer.outputs} output units"
    return ""
