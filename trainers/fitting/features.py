"""Features of rows for linear heads: from the pooled states that the boundary cache stores, else by a forward pass."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from adapters.graft import Graft
from adapters.model import GraftModel
from backbone.home import boundaries_folder
from backbone.storage import Backbone
from backbone.trees import Params, map_leaves
from trainers.config import Plan
from trainers.data.batches import Examples, part_of
from trainers.fitting.cached_states import Boundaries
from trainers.fitting.linear_head import pooled_features
from trainers.runs.logs import bar
from trainers.runs.run import Run

log = logging.getLogger(__name__)

READ = 4096  # rows whose states of all boundaries are read at a time
SAMPLE = 8  # rows that run through the network where cached states give logits
TOLERANCE = 1e-3  # largest difference of their logits, relative to the largest


def open_cache(
    plan: Plan, model: GraftModel, backbone: Backbone, adapter: Params, run: Run | None = None
) -> Boundaries | None:
    """Opens the boundary cache under an adapter that is frozen; None where the plan has none."""
    if plan.cache == "none":
        return None
    max_bytes = int(plan.cache_gib * 2**30)
    computed = run.computed if run is not None else None
    return Boundaries(model, backbone, adapter, boundaries_folder(), plan.cache, max_bytes, computed)


def features(
    plan: Plan,
    model: GraftModel,
    backbone: Backbone,
    adapter: Params,
    splits: Sequence[Examples],
    run: Run,
    *,
    keep: bool = True,
) -> list[np.ndarray]:
    """Returns the head's features float32 [N,F] of each split.

    With `keep` they come from the cache where it can hold them, for the next run on these rows.
    """
    store = open_cache(plan, model, backbone, adapter, run) if keep else None
    if store is not None and (stored := stored_features(model, splits, store, run.show)):
        return stored
    total = sum(map(len, splits))
    run.computed.rows += total
    with bar(total, "features", "row", show=run.show) as shown:
        return [pooled_features(model, backbone, adapter, split, shown.update) for split in splits]


def stored_features(
    model: GraftModel, splits: Sequence[Examples], store: Boundaries, show: bool
) -> list[np.ndarray] | None:
    """Returns the features [N,F] of each split from cached pooled states; None where these do not make them."""
    if model.head.pooling == "tokens" or not (model.feature_method is None or model.feature_method.reads_pooled):
        return None
    try:
        store.fill(splits, (), pooled=True, show=show)
    except MemoryError:
        return None
    return [_pooled_features(model, examples, store) for examples in splits]


def _pooled_features(model: GraftModel, examples: Examples, store: Boundaries) -> np.ndarray:
    """Returns the features [N,F] of a split; the states of all boundaries are in memory for a part of its rows."""
    parts = [
        of_pooled(model, store.pooled(part_of(examples, np.arange(first, min(first + READ, len(examples))))))
        for first in range(0, len(examples), READ)
    ]
    return np.concatenate(parts)


def logits_of_rows(plan: Plan, graft: Graft, examples: Examples, *, again: bool = False) -> np.ndarray:
    """Returns logits float32 [N,C] of rows, or [N,T,C] of tokens.

    Where the head reads pooled states, those of a graft that adapts no block come from the cache: the frozen states are
    the same for every graft and every retraining. With `again`, the graft will see these rows again, so the states
    under its adapter are kept too. Some rows run through the network, as they will where the graft answers; a cache
    that does not agree with these is not used.
    """
    logits = _cached_logits(plan, graft, examples, again)
    if logits is None:
        return graft.logits_of_rows(examples.rows)
    sample = np.flatnonzero(examples.buckets == examples.buckets[0])[:SAMPLE]
    computed = graft.logits_of_rows([examples.rows[i] for i in sample])
    if np.allclose(logits[sample], computed, rtol=TOLERANCE, atol=TOLERANCE * np.abs(computed).max()):
        return logits
    log.warning("cached states give other logits than the network; every row is computed again")
    return graft.logits_of_rows(examples.rows)


def _cached_logits(plan: Plan, graft: Graft, examples: Examples, again: bool) -> np.ndarray | None:
    """Returns logits float32 [N,C] from cached pooled states; None for a graft that reads others."""
    model = graft.model
    kept = not model.adapted_blocks or (again and not (model.suffix or model.drops))  # no cache has names for those
    if not len(examples) or model.head.pooling == "attention" or not kept:
        return None
    store = open_cache(plan, model, graft.backbone, graft.params["adapter"] if model.adapted_blocks else {})
    stored = None if store is None else stored_features(model, [examples], store, False)
    if stored is None:
        return None
    head = map_leaves(jnp.asarray, graft.params["head"])
    return np.asarray(model.head.logits(head, jnp.asarray(stored[0]), None, None))


def of_pooled(model: GraftModel, pooled: np.ndarray) -> np.ndarray:
    """Returns the head's features float32 [N,F] from pooled states [N,L+1,P] of every boundary."""
    method = model.feature_method
    return pooled[:, -1] if method is None else method.of_pooled(model.network.spec, pooled)
