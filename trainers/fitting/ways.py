"""The ways to a graft's parameters: a probe, a head on an adapter that is there, steps through the plan's stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from adapters.model import GraftModel
from backbone.home import boundaries_folder
from backbone.storage import Backbone
from backbone.trees import Params, map_leaves
from metering.window import Cost, window
from trainers.config import TrainConfig
from trainers.data.batches import Examples
from trainers.data.examples import TaskData
from trainers.fitting.cached_states import Boundaries, ComputedRows
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.linear_head import (
    SHRUNK,
    FittedProbe,
    fit_linear,
    fitted_labels,
    pooled_features,
    shrunk_head,
    vector_model,
)
from trainers.fitting.loop import Fitted, MakeCache, Progress, Task, fit, rows_of_steps
from trainers.fitting.warm_start import Parent, grown, head_features
from trainers.runs.checkpoints import FOLDER, Checkpoints
from trainers.runs.logs import Scalars, bar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """The ways to parameters; each returns them, and whether the run had been interrupted."""

    config: TrainConfig
    workdir: Path
    model: GraftModel
    backbone: Backbone
    data: TaskData
    identity: Mapping[str, str]
    costs: dict[str, Cost]
    tally: ComputedRows
    show: bool

    @property
    def _train(self) -> Examples:
        return self.data.splits["train"]

    @property
    def _dev(self) -> Examples | None:
        return self.data.splits.get("dev")

    def _untrained(self) -> Params:
        return map_leaves(np.asarray, self.model.init(jax.random.key(self.config.seed)))

    def probe(self) -> tuple[Fitted, bool]:
        """A head on the pooled states of the bare backbone."""
        return self._head(self._untrained())

    def head_only(self, parent: Parent) -> tuple[Fitted, bool]:
        """A head on the features of the parent's adapter."""
        return self._head({**self._untrained(), "adapter": parent.params.get("adapter", {})})

    def _head(self, params: Params) -> tuple[Fitted, bool]:
        with window("probe") as self.costs["probe"]:
            params["head"] = {**params["head"], **self._probe(params, strong=False).head}
        return Fitted(params, 0, Progress()), False

    def bare_features(self, splits: Sequence[Examples]) -> list[np.ndarray]:
        """Features [N,F] of the bare backbone, of the rows of each split."""
        return self._features({}, list(splits), keep=True)

    def steps(self, parent: Parent | None) -> tuple[Fitted, bool]:
        """Gradient steps through the plan's stages, from the parent or from a probe."""
        config, model, backbone = self.config, self.model, self.backbone
        difficulty = difficulty_of(config, model, backbone, self._train, self._plain_features)
        task = Task(config, model, backbone, self._train, self._dev, difficulty)
        log.info("stages end at micro-batches %s", [span.until for span in task.spans])  # or the plan fits no run
        with Checkpoints(self.workdir / FOLDER, self.identity) as checkpoints:
            resumed = checkpoints.notes() is not None
            with window("probe") as self.costs["probe"]:
                params = self._untrained()
                if parent is not None:
                    params = grown(parent, model, config, backbone, self._train, self.tally)
                elif config.head_start != "zero" and not resumed:
                    params["head"] |= self._probe(params, strong=config.head_start == "shrunk_probe").head
            with window("train") as self.costs["train"]:
                fitted = fit(
                    task,
                    params,
                    checkpoints,
                    lambda step: Scalars(self.workdir, step),
                    make_cache=cache_maker(config, model, backbone, self.tally),
                    show=self.show,
                )
            self.tally.rows += rows_of_steps(config, fitted.progress)
            return fitted, resumed

    def _plain_features(self, plain: GraftModel) -> np.ndarray:
        """Features [N,F] of the train rows by a model without adapters."""
        return replace(self, model=plain).bare_features([self._train])[0]

    def _probe(self, params: Params, *, strong: bool) -> FittedProbe:
        """The head fitted to the features that the adapter gives; `strong` for one that training starts from."""
        config, train, dev = self.config, self._train, self._dev
        splits = [train, *([dev] if dev is not None and not strong else [])]
        features = self._features(params["adapter"], splits, keep=not strong)
        labels = fitted_labels(self.model, train.labels)
        model, metric = vector_model(self.model, config.metric)
        if strong:
            return FittedProbe(shrunk_head(model, features[0], labels), SHRUNK, {})
        held = (features[1], fitted_labels(self.model, dev.labels)) if dev is not None else None
        fitted = fit_linear(model, features[0], labels, held, metric)
        log.info("probe: l2 %g, development %s by l2 %s", fitted.strength, metric, fitted.scores)
        return fitted

    def _features(self, adapter: Params, splits: list[Examples], *, keep: bool) -> list[np.ndarray]:
        """Features [N,F] of each split; with `keep` through the cache, for the next run on these rows."""
        make = cache_maker(self.config, self.model, self.backbone, self.tally) if keep else None
        if make and (found := head_features(self.model, splits, make(adapter), self.show)):
            return found
        total = sum(map(len, splits))
        self.tally.rows += total
        with bar(total, "features", "row", show=self.show) as shown:
            return [pooled_features(self.model, self.backbone, adapter, split, shown.update) for split in splits]


def cache_maker(
    config: TrainConfig, model: GraftModel, backbone: Backbone, tally: ComputedRows | None = None
) -> MakeCache | None:
    """Opens the boundary cache below a stage, for the adapter that is frozen there; None where there is none."""
    if config.plan.cache == "none":
        return None
    storage, most = config.plan.cache, int(config.plan.cache_gib * 2**30)
    return lambda adapter: Boundaries(model, backbone, adapter, boundaries_folder(), storage, most, tally)
