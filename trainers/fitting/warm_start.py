"""Starting from a stored graft: its adapter, and the rows of its head whose labels are still there.

    train(config, workdir, start=Start(Path("runs/monday/graft")))

New labels begin as a probe with small weights, fitted to the rows that carry them and as many others. Labels that are
gone are dropped. With `head_only` the adapter stays as it is, and the head is fitted anew to its features. They come
from the boundary cache, so only new rows are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from adapters.artefact.manifest import Manifest
from adapters.artefact.read import read_graft
from adapters.heads.columns import numbered
from adapters.model import GraftModel
from backbone.errors import InputError
from backbone.storage import Backbone
from backbone.trees import Params, flatten, map_leaves, unflatten
from trainers.config import TrainConfig
from trainers.data.batches import Examples, part_of
from trainers.fitting.linear_head import fitted_labels, pooled_features, shrunk_head, vector_model
from trainers.runs.run import ComputedRows


@dataclass(frozen=True)
class Start:
    """The graft that training starts from."""

    path: Path  # its folder
    head_only: bool = False  # keep its adapter, fit the head anew
    from_climb: bool = False  # its task climbs: the head of a probe is chosen anew, as a climb chooses it


@dataclass(frozen=True)
class Parent:
    """A start that was read."""

    manifest: Manifest
    params: Params

    def model(self, backbone: Backbone, config: TrainConfig, labels: tuple[str, ...]) -> GraftModel:
        """Returns the parent's methods with the present labels; raises InputError where the parent does not fit."""
        for name in ("weights_id", "preprocessing_id"):
            if getattr(backbone, name) != getattr(self.manifest, name):
                raise InputError(f"start: grafted on another backbone ({name} differs); train without it")
        if self.manifest.suffix:
            raise InputError("start: a pruned graft is trained no further; train without it, then prune the result")
        if self.manifest.drops:
            raise InputError("start: a graft that drops tokens is trained no further; start from what it was made from")
        if self.manifest.head != config.head:
            raise InputError("start: its head is another kind than config.head; train without it")
        return GraftModel(backbone.network, self.manifest.methods, config.head, labels)


def read_parent(start: Start) -> Parent:
    """Reads and verifies the graft to start from."""
    manifest, params, _ = read_graft(start.path)
    return Parent(manifest, params)


def grown(
    parent: Parent, model: GraftModel, config: TrainConfig, backbone: Backbone, rows: Examples, tally: ComputedRows
) -> Params:
    """Returns the parent's parameters for the labels of `model`."""
    fresh = map_leaves(np.array, model.init(jax.random.key(config.seed)))
    same = {p: leaf for p, leaf in flatten(parent.params).items() if p.startswith("adapter.") or p == "head.query"}
    params = unflatten(flatten(fresh) | same)
    known = numbered(parent.manifest.labels)
    new = [i for i, name in enumerate(model.labels) if name not in known]
    if new and config.head_start != "zero":
        params["head"] |= map_leaves(
            np.array, _fitted(model, backbone, params["adapter"], rows, new, config.seed, tally)
        )
    for i, name in enumerate(model.labels):
        if name in known:
            params["head"]["kernel"][:, i] = parent.params["head"]["kernel"][:, known[name]]
            params["head"]["bias"][i] = parent.params["head"]["bias"][known[name]]
    return params


def _fitted(
    model: GraftModel,
    backbone: Backbone,
    adapter: Params,
    rows: Examples,
    new: list[int],
    seed: int,
    tally: ComputedRows,
) -> Params:
    """Returns a shrunk probe on the rows with new labels and as many others, drawn."""
    carries = model.head.column.carries(rows.labels, new)
    others = np.flatnonzero(~carries)
    drawn = np.random.default_rng(seed).permutation(others)[: int(carries.sum())]
    chosen = part_of(rows, np.sort(np.concatenate([np.flatnonzero(carries), drawn])))
    tally.rows += len(chosen)
    features = pooled_features(model, backbone, adapter, chosen, lambda count: None)
    return shrunk_head(vector_model(model, "")[0], features, fitted_labels(model, chosen.labels))
