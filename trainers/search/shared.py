"""What the trials of a search share: rows and backbone, stored states, first heads, models, compiled steps.

One forward pass over the train and development rows of a trunk stores every boundary that a trial of it reads, and the
pooled states of all blocks. Trials whose models differ in rank, width or scale alone are a group with one model.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.model import GraftModel
from backbone.errors import InputError
from backbone.records import digest, encode
from backbone.trees import Params
from trainers.config import EarlyExits, OutOfScope, TrainConfig
from trainers.curation.facts import TrainFacts
from trainers.curation.select import with_subset
from trainers.fitting.cached_states import Boundaries, CachedPrefix
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.features import of_pooled, open_cache
from trainers.fitting.linear_head import shrunk_head
from trainers.fitting.task import reads_from
from trainers.fitting.ways import fresh_params, small_head
from trainers.inputs import Inputs, prepare
from trainers.runs.run import Run
from trainers.search.objectives import Prediction, graft_of, predicted
from trainers.search.padding import factors_of, padded, shared_model
from trainers.search.space import Point, Points, Refused, require_used
from trainers.search.training import Programs, TrialTask

log = logging.getLogger(__name__)

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)  # errors of a disk, or a share of one, without room


@dataclass(frozen=True, eq=False)
class Trial:
    """A point with its rows, its model, and the model of its group."""

    point: Point
    inputs: Inputs
    model: GraftModel  # model of the point alone
    group: GraftModel  # model that the trials of its group share

    @property
    def fitted(self) -> bool:
        """Returns whether the trial is a head on fixed features, fitted in closed form."""
        return self.inputs.config.adapter.fitted

    @property
    def boundary(self) -> int:
        """Returns the boundary below the blocks that are live at first; the last one of a fitted head."""
        if self.fitted:
            return self.inputs.backbone.spec.blocks
        lowest = min(self.model.adapted_blocks, default=self.inputs.backbone.spec.blocks)
        return lowest if reads_from(self.model, lowest) else 0


class Shared:
    """The shared parts of a search."""

    def __init__(self, run: Run):
        self.run, self.programs = run, Programs()
        self._whole: dict[str, Inputs] = {}  # inputs with all train rows
        self._facts: dict[tuple[str, int], TrainFacts] = {}  # facts about all train rows, by seed of a choice
        self._inputs: dict[str, Inputs] = {}  # the inputs with the rows of a subset
        self._heads: dict[tuple[object, ...], Params] = {}
        self._stores: dict[int, Boundaries | None] = {}
        self._by_group: dict[tuple[int, GraftModel], Boundaries] = {}
        self._predictions: dict[GraftModel, Prediction] = {}

    def trials(self, points: Points) -> tuple[tuple[Trial, ...], tuple[Refused, ...]]:
        """Returns a trial for each point, and the points that do not fit their backbone or rows.

        Raises InputError if a setting fits in no point, or without development rows.
        """
        models: list[tuple[Point, Inputs, GraftModel]] = []
        refused = list(points.refused)
        for point in points.points:
            try:
                inputs = self.inputs(point.config)
                models.append((point, inputs, inputs.model()))
            except InputError as error:
                refused.append(Refused(point.settings, str(error)))
        require_used([point for point, _, _ in models], refused)
        groups = self._groups([model for _, _, model in models])
        trials = tuple(Trial(point, inputs, model, groups[model]) for point, inputs, model in models)
        log.info("search: %d points in %d groups", len(trials), len(set(groups.values())))
        return trials, tuple(refused)

    @staticmethod
    def _groups(models: Sequence[GraftModel]) -> dict[GraftModel, GraftModel]:
        """Returns the shared model of each model; as few groups as there can be, in the order of the models."""
        groups: list[tuple[GraftModel, list[GraftModel]]] = []
        for model in dict.fromkeys(models):
            for number, (_, members) in enumerate(groups):
                wider = shared_model([*members, model])
                if wider is not None:
                    groups[number] = (wider, [*members, model])
                    break
            else:
                groups.append((model, [model]))
        return {model: shared for shared, members in groups for model in members}

    def inputs(self, config: TrainConfig) -> Inputs:
        """Returns the inputs of a config; those that read the same rows on the same trunk are prepared once."""
        config = replace(config, out_of_scope=OutOfScope(), exits=EarlyExits())
        whole = digest([encode(part) for part in (config.backbone, config.precision, config.data, config.head)])
        if whole not in self._whole:
            inputs = prepare(config, self.run)
            if inputs.dev is None:
                raise InputError("data.dev: a search compares on development rows; set this or data.dev_fraction")
            self._whole[whole] = replace(inputs, judged_on_dev=True)  # no head is fitted to them
        key = digest([whole, encode(config.subset)])
        if key not in self._inputs:
            inputs = self._whole[whole]
            chosen = replace(inputs, config=replace(inputs.config, subset=config.subset))
            seed = (whole, config.subset.seed)
            if seed not in self._facts:
                self._facts[seed] = TrainFacts(inputs, self.run, config.subset.seed)
            self._inputs[key] = with_subset(chosen, self.run, self._facts[seed])
        known = self._inputs[key]
        return replace(known, config=replace(config, head=known.config.head, data=known.config.data))

    def fill(self, trials: Sequence[Trial]) -> None:
        """Computes and stores what the trials read and what is not stored yet: one pass for each trunk and rows."""
        for known in self._inputs.values():
            members = [trial for trial in trials if trial.inputs.data is known.data]
            if not members:
                continue
            boundaries = sorted({trial.boundary for trial in members if not trial.fitted and trial.boundary})
            store = open_cache(known.config.plan, known.probe(), known.backbone, {}, self.run)
            splits, pooled = [known.train, *([known.dev] if known.dev else [])], known.config.head.pooling != "tokens"
            if store is not None:
                try:
                    count = store.fill(splits, boundaries, pooled=pooled, show=self.run.show)
                    log.info("search: boundaries %s: %d rows computed, the rest was cached", boundaries, count)
                except (MemoryError, OSError) as error:
                    if isinstance(error, OSError) and error.errno not in FULL_DISK:
                        raise
                    log.warning(
                        "%s for boundaries %s, which find no room: trials run the blocks below in every step",
                        error, ", ".join(map(str, boundaries)),
                    )  # fmt: skip
                    store = None
            self._stores[id(known.data)] = store

    def store(self, inputs: Inputs) -> Boundaries | None:
        """Returns the filled cache of some inputs; None where the plan has none, or it did not fit."""
        return self._stores.get(id(inputs.data))

    def prefix(self, inputs: Inputs, group: GraftModel, boundary: int) -> CachedPrefix | None:
        """Returns the states at a boundary under no adapter, computed now if no trial began there."""
        if self.store(inputs) is None or not boundary:
            return None
        key = (id(inputs.data), group)
        if key not in self._by_group:  # the same stored rows, read for the logits of this model
            store = open_cache(inputs.config.plan, group, inputs.backbone, {}, self.run)
            assert store is not None
            self._by_group[key] = store
        store = self._by_group[key]
        splits = [split for split in (inputs.train, inputs.dev) if split is not None]
        if not all(store.has_states(boundary, split) for split in splits):
            store.fill(splits, (boundary,))
        return CachedPrefix(store, boundary)

    def task(self, trial: Trial) -> TrialTask:
        """Returns the task of the loop for a trial that is trained in steps."""
        inputs, config = trial.inputs, trial.inputs.config
        pooled = None if self.store(inputs) is None else lambda plain: self._pooled(inputs)
        difficulty = difficulty_of(config, trial.model, inputs.backbone, inputs.train, pooled)
        return TrialTask(
            config,
            trial.group,
            inputs.backbone,
            inputs.train,
            inputs.dev,
            difficulty,
            lambda leaves: open_cache(config.plan, trial.group, inputs.backbone, leaves, self.run),
            factors=factors_of(trial.model, trial.group),
            programs=self.programs,
            bare=lambda at: self.prefix(inputs, trial.group, at) if reads_from(trial.group, at) else None,
        )

    def start(self, trial: Trial) -> Params:
        """Returns the padded parameters before the first step, with the head that the config starts from."""
        inputs, model = trial.inputs, trial.model
        params = fresh_params(inputs, model)
        if inputs.config.head_start == "shrunk_probe":
            params["head"] |= self._head(trial, params)
        elif inputs.config.head_start == "probe":
            raise InputError("head_start: a search starts from shrunk_probe or zero, got probe")
        return {**params, "adapter": padded(params["adapter"], trial.group)}

    def _head(self, trial: Trial, params: Params) -> Params:
        """Returns the shrunk head; adapters that change nothing at the start share it."""
        inputs, model = trial.inputs, trial.model
        bare = model.feature_method is None and all(method.identity_at_start for method in model.methods)
        store = self.store(inputs)
        if not bare or store is None or model.head.pooling == "tokens":
            return small_head(inputs, self.run, model, params)
        key = (id(inputs.data), inputs.config.head, inputs.config.metric)
        if key not in self._heads:
            self._heads[key] = shrunk_head(inputs.probe(), self._pooled(inputs), inputs.train.labels)
        return {name: leaf for name, leaf in self._heads[key].items() if name in params["head"]}

    def prediction(self, trial: Trial, *, joules: bool) -> Prediction:
        """Returns the cost of one prediction, measured once for each model, before training: values change no cost."""
        if trial.model not in self._predictions:
            params = fresh_params(trial.inputs, trial.model)
            graft = graft_of(trial.model, params, trial.inputs.backbone, trial.inputs.config)
            self._predictions[trial.model] = predicted(graft, trial.inputs.train.rows, joules=joules)
        return self._predictions[trial.model]

    def _pooled(self, inputs: Inputs) -> np.ndarray:
        """Returns the pooled last states float32 [N,P] of the train rows."""
        store = self.store(inputs)
        assert store is not None
        return of_pooled(inputs.probe(), store.pooled(inputs.train))
