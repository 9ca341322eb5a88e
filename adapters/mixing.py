"""The verb `combine`: several LoRA grafts of one backbone as one, by fixed weights.

With D_i = s_i A_i B_i, the update of graft i at a site, and weights w_i:

    linear   A = sum sign(w_i) sqrt(|w_i| s_i) A_i, B = sum sqrt(|w_i| s_i) B_i: keeps the rank, has cross terms
    cat      A and B side by side: exactly sum w_i D_i, at the sum of the ranks
    svd      the best approximation of sum w_i D_i at a rank (Eckart & Young 1936)
    ties     trim each D_i to its largest entries, elect a sign for each entry, average w_i D_i over the grafts that
             agree with it (Yadav et al. 2023, arXiv 2306.01708, algorithm 1), then as svd

`linear` is PEFT's add_weighted_adapter of that name; `ties` is its `ties_svd`. The head comes from one graft.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from adapters.artefact.manifest import Training
from adapters.artefact.write import save_graft
from adapters.combination import Combination, How
from adapters.graft import Graft, dropped, load_graft, require_every_token
from adapters.machine import ready_to_compute
from adapters.methods.lora import Lora, LoraSetting
from adapters.model import GraftModel
from adapters.patterns import Site, sites_of
from backbone.errors import InputError
from backbone.network.sites import LINEAR

Factors: TypeAlias = tuple[np.ndarray, np.ndarray]  # A [I,r] and B [r,O], with the scale multiplied in


@dataclass(frozen=True)
class Combined:
    """The result of `combine`."""

    path: str  # folder of the new graft
    content_id: str  # content_id of the new graft
    how: str  # way of combining
    grafts: tuple[str, ...]  # content_id of each graft that was combined
    weights: tuple[float, ...]  # weight of each
    head_from: str  # content_id of the graft that gave the head and the labels
    labels: tuple[str, ...]  # names of the labels
    ranks: dict[str, int]  # rank at each site
    error: float  # |combined - intended| / |intended| over all sites, Frobenius norms
    dropped: tuple[str, ...]  # parts of the grafts that the new one lacks


def combine(
    grafts: Sequence[str | Path],
    out: str | Path,
    combination: Combination,
    *,
    backbone: str | Path | None = None,
) -> Combined:
    """Stores the combination of LoRA grafts as a new graft.

    Raises InputError for grafts of other methods, or of different backbones.
    """
    how, rank, density, head_from = combination.how, combination.rank, combination.density, combination.head_from
    weights = _weights(grafts, combination)
    ready_to_compute()
    loaded = [load_graft(grafts[0], backbone)]
    loaded += [load_graft(path, loaded[0].backbone) for path in grafts[1:]]
    parts = [factors_of(path, graft) for path, graft in zip(grafts, loaded, strict=True)]
    head_path = Path(head_from) if head_from is not None else Path(grafts[0])
    if head_path not in list(map(Path, grafts)):
        raise InputError(f"--head-from: {head_path} is none of the combined grafts: {', '.join(map(str, grafts))}")
    first = loaded[list(map(Path, grafts)).index(head_path)]
    factors: dict[Site, Factors] = {}
    missed = intended = 0.0
    for site in (site for site in sites_of(loaded[0].backbone.spec, LINEAR) if any(site in part for part in parts)):
        present = [(w, part[site]) for w, part in zip(weights, parts, strict=True) if site in part]
        factors[site], update = combined([f for _, f in present], [w for w, _ in present], how, rank, density)
        missed += float(np.square(factors[site][0] @ factors[site][1] - update).sum())
        intended += float(np.square(update).sum())
    # a scale of one: alpha equals the rank
    lora = Lora.with_ranks({s: (a.shape[1], float(a.shape[1])) for s, (a, _) in factors.items()}, first.backbone.spec)
    adapter: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for site, (a, b) in factors.items():
        leaves = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
        adapter.setdefault(str(site.block), {})[site.name] = leaves
    model = GraftModel(first.backbone.network, (lora,), first.model.head, first.model.labels)
    ids = tuple(graft.manifest.content_id for graft in loaded if graft.manifest)
    assert first.manifest is not None
    settings = {"combined": how, "grafts": list(ids), "weights": list(weights), "rank": rank, "density": density}
    manifest = save_graft(
        out,
        model,
        {"adapter": {"lora": adapter}, "head": first.params["head"]},
        first.backbone,
        name=first.manifest.name,
        max_tokens=first.max_tokens,
        training=Training(
            config=settings | {"backbone_path": str(first.backbone.path)},
            seeds={},
            data={},
            metrics={},
            costs={},
            versions={},
        ),
    )
    return Combined(
        path=str(out),
        content_id=manifest.content_id,
        how=how,
        grafts=ids,
        weights=tuple(weights),
        head_from=first.manifest.content_id,
        labels=model.labels,
        ranks={site.full_name: a.shape[1] for site, (a, _) in factors.items()},
        error=math.sqrt(missed / intended) if intended else 0.0,
        dropped=dropped(loaded, "a combined graft"),
    )


def combined(
    updates: Sequence[Factors], weights: Sequence[float], how: How, rank: int, density: float
) -> tuple[Factors, np.ndarray]:
    """Returns the factors of the combination at one site, and the update [I,O] that was intended."""
    deltas = [w * a @ b for w, (a, b) in zip(weights, updates, strict=True)]
    total = np.sum(deltas, axis=0)
    if how == "cat":
        a = np.concatenate([w * a for w, (a, _) in zip(weights, updates, strict=True)], axis=1)
        return (a, np.concatenate([b for _, b in updates])), total
    if how == "linear":
        ranks = {a.shape[1] for a, _ in updates}
        if len(ranks) > 1:
            raise InputError(f"--how linear: the grafts have ranks {sorted(ranks)} at one site; use cat, svd or ties")
        roots = [math.sqrt(abs(w)) for w in weights]
        left = [math.copysign(r, w) * a for r, w, (a, _) in zip(roots, weights, updates, strict=True)]
        right = [r * b for r, (_, b) in zip(roots, updates, strict=True)]
        return (np.sum(left, axis=0), np.sum(right, axis=0)), total
    intended = total if how == "svd" else ties([a @ b for a, b in updates], weights, density)
    return truncated(intended, rank or max(a.shape[1] for a, _ in updates)), intended


def ties(deltas: Sequence[np.ndarray], weights: Sequence[float], density: float) -> np.ndarray:
    """Runs algorithm 1 of TIES on one array of each task; the weights apply after the election, as in PEFT."""
    trimmed = []
    for delta in deltas:
        kept = int(density * delta.size)
        mask = np.zeros(delta.size, bool)
        mask[np.argsort(-np.abs(delta), axis=None, kind="stable")[:kept]] = True
        trimmed.append(np.where(mask.reshape(delta.shape), delta, 0))
    stack = np.stack(trimmed)
    elected = np.where(stack.sum(axis=0) >= 0, 1, -1)
    agree = np.sign(stack) == elected
    weighted = np.tensordot(weights, stack * agree, axes=1)
    return np.asarray(weighted / np.maximum(agree.sum(axis=0), 1))


def truncated(delta: np.ndarray, rank: int) -> Factors:
    """Returns the nearest product of rank `rank`, its singular values shared evenly by both factors."""
    u, s, v = np.linalg.svd(delta, full_matrices=False)
    rank = min(rank, len(s))
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * v[:rank]


def factors_of(path: str | Path, graft: Graft) -> dict[Site, Factors]:
    """Returns the factors (A, B) of each site's update A @ B in float64, each multiplied by sqrt(scale).

    Raises InputError for a graft of another method, and for one that drops tokens.
    """
    require_every_token(graft, str(path))
    tags = [method.tag for method in graft.model.methods]
    if tags != [Lora.tag]:
        present = ", ".join(tags) or "no method"
        raise InputError(f"{path}: only grafts of one lora have updates that can be added; this one has {present}")
    settings: dict[Site, LoraSetting] = graft.model.site_parts[Lora.tag][1]
    factors = {}
    for site, setting in settings.items():
        leaves = graft.params["adapter"][Lora.tag][str(site.block)][site.name]
        a, b = (np.asarray(leaves[name], np.float64) * math.sqrt(setting.scale) for name in "ab")
        factors[site] = (a, b)
    return factors


def _weights(grafts: Sequence[str | Path], combination: Combination) -> tuple[float, ...]:
    """Returns the weight of each graft; raises InputError for another number of weights than of grafts."""
    if len(grafts) < 2:
        raise InputError("combine: at least two grafts are needed")
    weights = combination.weights or (1 / len(grafts),) * len(grafts)
    if len(weights) != len(grafts):
        raise InputError(f"--weights: {len(weights)} for {len(grafts)} grafts")
    return weights


__all__ = ["Combined", "combine", "combined", "factors_of", "ties", "truncated"]
