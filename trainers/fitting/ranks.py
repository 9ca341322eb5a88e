"""Adaptive ranks: the least important ranks of an adapter are removed while it is trained, under a budget of bytes.

Importance is AdaLoRA's (Zhang et al. 2023, arXiv 2303.10512). The sensitivity of a weight is I = |w dL/dw|
(equation 8). Its average over steps is S, and that of |I - S| is U (equation 9). A weight's score is S U (equation 10),
a rank's score the mean over everything that belongs to it, a column of A and a row of B. With means the ranking is by
summed score per byte, the greedy order of a knapsack. So sites of different widths share one budget. It falls by the
cubic rule of their equation 12. A removed rank is zero from then on and never comes back.

Two differences from the paper: pairs (A, B) instead of a singular value decomposition, and a budget in bytes. The
penalty `orthogonality` gives the first what it lacks. Shape letters: `G` ranks over all sites, `R` ranks of one site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adapters.methods.method import Method, SiteMethod
from adapters.model import GraftModel
from adapters.patterns import Site, leaves_at
from backbone.errors import InputError
from backbone.trees import Params, flatten, unflatten
from trainers.config import Ranks

SMOOTHING = 0.85  # weight of the past in both averages (Zhang et al. 2023, section 4.1)


@dataclass(frozen=True, eq=False)
class RankedSite:
    """The ranks of one method at one site, as the trained tree holds them."""

    tag: str  # tag of the method
    site: Site
    axes: Mapping[str, int]  # axis that is the rank, by dotted path of the leaf
    bytes: int  # bytes of one rank, over all its leaves
    count: int  # number of ranks
    min_ranks: int  # ranks that stay whatever their score: 1 where other leaves need the site
    fixed_bytes: int  # bytes of the leaves without a rank

    @property
    def entries(self) -> int:
        """Returns the number of weights of one rank."""
        return self.bytes // 4


def ranked_sites(model: GraftModel) -> tuple[RankedSite, ...]:
    """Returns every site of the methods whose ranks may differ, in the order of the tree."""
    return tuple(
        _ranked(method, site, flatten(leaves_at(abstract, site)))
        for method, settings in model.site_parts.values()
        if method.adapts_ranks
        for abstract in [model.abstract()["adapter"][method.tag]]
        for site in settings
    )


def _ranked(method: SiteMethod, site: Site, leaves: Mapping[str, Any]) -> RankedSite:
    axes = {name: axis for name, axis in method.rank_axes.items() if name in leaves}
    counts = {leaves[name].shape[axis] for name, axis in axes.items()}
    (count,) = counts
    entries = sum(leaves[name].size for name in axes) // count
    rest = sum(leaf.size for name, leaf in leaves.items() if name not in axes)
    paths = {f"adapter.{method.tag}.{site.block}.{site.name}.{name}": axis for name, axis in axes.items()}
    return RankedSite(method.tag, site, paths, 4 * entries, count, int(rest > 0), 4 * rest)


def require_budget(settings: Ranks, model: GraftModel) -> None:
    """Raises InputError for a budget of bytes that no choice of ranks meets."""
    sites = ranked_sites(model)
    fixed = sum(site.fixed_bytes + site.min_ranks * site.bytes for site in sites)
    needed = max(fixed, *(site.bytes for site in sites))
    if settings.max_bytes < needed:
        whole = sum(site.fixed_bytes + site.count * site.bytes for site in sites)
        raise InputError(
            f"ranks.max_bytes: {settings.max_bytes} leaves no rank: the adapter has {whole} bytes, and the smallest "
            f"that is left has {needed}; raise it, or name fewer sites"
        )


class RankState(NamedTuple):
    """The state of the optimiser with the averages by which ranks are chosen."""

    inner: Any  # state of the optimiser itself
    step: jax.Array  # optimiser steps done, int32 []
    sensitivity: Params  # average of |w dL/dw| by leaf
    uncertainty: Params  # average of its distance from that average, by leaf
    kept: dict[str, jax.Array]  # ranks that are left, bool [R], by method and site


def budgeted(
    settings: Ranks, model: GraftModel, steps: int
) -> Callable[[optax.GradientTransformation], optax.GradientTransformation]:
    """Returns the wrapper of an optimiser that removes ranks over a run of so many optimiser steps."""
    sites = ranked_sites(model)

    def around(inner: optax.GradientTransformation) -> optax.GradientTransformation:
        def init(live: Params) -> RankState:
            zeros = _zeros(sites, live)
            kept = {_key(site): jnp.ones(site.count, bool) for site in sites}
            return RankState(inner.init(live), jnp.zeros((), jnp.int32), zeros, _zeros(sites, live), kept)

        def update(gradient: Params, state: RankState, live: Params | None = None) -> tuple[Params, RankState]:
            assert live is not None
            updates, inner_state = inner.update(gradient, state.inner, live)
            smooth, spread = _averages(state, flatten(gradient), flatten(live))
            due = (state.step + 1) % settings.every == 0
            due |= state.step + 1 >= np.ceil(settings.end * steps)
            limit = byte_limit(settings, sites, (state.step + 1) / steps)
            chosen = chosen_ranks(sites, _scores(sites, smooth, spread), state.kept, limit)
            kept = {key: jnp.where(due, chosen[key], before) for key, before in state.kept.items()}
            updates = _removing(sites, kept, flatten(updates), flatten(live))
            return updates, RankState(inner_state, state.step + 1, unflatten(smooth), unflatten(spread), kept)

        return optax.GradientTransformation(init, update)

    return around


def byte_limit(settings: Ranks, sites: tuple[RankedSite, ...], share: Any) -> Any:
    """Returns the bytes float32 [] of all ranks after a share of the run (Zhang et al. 2023, equation 12)."""
    fixed = sum(site.fixed_bytes for site in sites)
    whole = sum(site.count * site.bytes for site in sites)
    last = min(whole, settings.max_bytes - fixed)
    rest = 1 - jnp.clip((share - settings.start) / (settings.end - settings.start), 0, 1)
    return last + (whole - last) * rest**3


def chosen_ranks(
    sites: tuple[RankedSite, ...], scores: Mapping[str, jax.Array], kept: Mapping[str, jax.Array], limit: Any
) -> dict[str, jax.Array]:
    """Returns the ranks bool [R] of each site that fit into `limit` bytes, the highest scores [R] first.

    A rank that is not in `kept` is never chosen. A site with `min_ranks` keeps its best ones before all others.
    """
    ordered = []
    for site in sites:
        score = jnp.where(kept[_key(site)], scores[_key(site)], -1.0)
        place = jnp.argsort(jnp.argsort(-score, stable=True), stable=True)
        ordered.append(jnp.where(place < site.min_ranks, jnp.inf, score))
    order = jnp.argsort(-jnp.concatenate(ordered), stable=True)  # [G]
    bytes_of = np.concatenate([np.full(site.count, site.bytes) for site in sites])
    fits = jnp.cumsum(jnp.asarray(bytes_of, jnp.float32)[order]) <= limit + 0.5
    flags = jnp.zeros(len(order), bool).at[order].set(fits)
    parts = jnp.split(flags, np.cumsum([site.count for site in sites])[:-1].tolist())
    return {_key(site): part & kept[_key(site)] for site, part in zip(sites, parts, strict=True)}


def narrowed(model: GraftModel, params: Params) -> tuple[GraftModel, Params]:
    """Returns the graft without the ranks that are zero: smaller arrays, the same outputs.

    `params` are on the host. A site without ranks is left out of the method.
    """
    leaves, kept = flatten(params), {}
    for ranked in ranked_sites(model):
        alive = np.zeros(ranked.count, bool)
        for path, axis in ranked.axes.items():
            alive |= (leaves[path] != 0).any(axis=tuple(a for a in range(leaves[path].ndim) if a != axis))
        alive[: ranked.min_ranks] |= not alive.any()
        kept[ranked] = np.flatnonzero(alive)
        prefix = f"adapter.{ranked.tag}.{ranked.site.block}.{ranked.site.name}."
        for path in [path for path in leaves if path.startswith(prefix)]:
            if not len(kept[ranked]):
                del leaves[path]
            elif path in ranked.axes:
                leaves[path] = np.ascontiguousarray(np.take(leaves[path], kept[ranked], axis=ranked.axes[path]))
    encoder = model.network.spec

    def fewer(method: Method) -> Method:
        ranks = {r.site: len(n) for r, n in kept.items() if r.tag == method.tag and len(n)}
        return method.with_fewer(encoder, ranks) if method.acts_at_sites else method  # type: ignore[attr-defined]

    return replace(model, methods=tuple(map(fewer, model.methods))), unflatten(leaves)


def _key(site: RankedSite) -> str:
    return f"adapter.{site.tag}.{site.site.block}.{site.site.name}"  # as a parameter, for a mesh


def _paths(sites: tuple[RankedSite, ...]) -> Iterator[str]:
    return (path for site in sites for path in site.axes)


def _zeros(sites: tuple[RankedSite, ...], live: Params) -> Params:
    leaves = flatten(live)
    return unflatten({path: jnp.zeros(leaves[path].shape, jnp.float32) for path in _paths(sites)})


def _averages(state: RankState, gradient: Params, live: Params) -> tuple[Params, Params]:
    """Returns the averages of sensitivity and uncertainty by path, after one more step."""
    smooth, spread = flatten(state.sensitivity), flatten(state.uncertainty)
    for path, before in smooth.items():
        now = jnp.abs(live[path] * gradient[path])
        smooth[path] = SMOOTHING * before + (1 - SMOOTHING) * now
        spread[path] = SMOOTHING * spread[path] + (1 - SMOOTHING) * jnp.abs(now - smooth[path])
    return smooth, spread


def _scores(sites: tuple[RankedSite, ...], smooth: Params, spread: Params) -> dict[str, jax.Array]:
    """Returns the score float32 [R] of each site's ranks: the mean of S U over the weights of a rank."""

    def score(site: RankedSite) -> Any:
        products = ((axis, smooth[path] * spread[path]) for path, axis in site.axes.items())
        return sum(p.sum(axis=tuple(a for a in range(p.ndim) if a != axis)) for axis, p in products) / site.entries

    return {_key(site): score(site) for site in sites}


def _removing(sites: tuple[RankedSite, ...], kept: Mapping[str, jax.Array], updates: Params, live: Params) -> Params:
    """Returns the updates that set every removed rank to exactly zero."""
    for site in sites:
        for path, axis in site.axes.items():
            shape = [1] * updates[path].ndim
            shape[axis] = site.count
            updates[path] = jnp.where(kept[_key(site)].reshape(shape), updates[path], -live[path])
    return unflatten(updates)
