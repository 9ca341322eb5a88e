"""Features of rows for linear heads: from the pooled states that the boundary cache stores, else by a forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters.model import GraftModel
from backbone.home import boundaries_folder
from backbone.storage import Backbone
from backbone.trees import Params
from trainers.config import Plan
from trainers.data.batches import Examples
from trainers.fitting.cached_states import Boundaries
from trainers.fitting.linear_head import pooled_features
from trainers.runs.logs import bar
from trainers.runs.run import Run


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
    return [of_pooled(model, store.pooled(examples)) for examples in splits]


def of_pooled(model: GraftModel, pooled: np.ndarray) -> np.ndarray:
    """Returns the head's features float32 [N,F] from pooled states [N,L+1,P] of every boundary."""
    method = model.feature_method
    return pooled[:, -1] if method is None else method.of_pooled(model.network.spec, pooled)
