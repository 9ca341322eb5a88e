"""The inputs of a run: config, backbone, rows and model, prepared and checked before anything is spent.

`train`, `plan`, `check --audit` and the trial of a retraining all prepare through `prepare`, so that one refuses what
another refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.scope import min_rows as scope_rows
from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Probe, above, block_range
from backbone.buckets import TokenRow
from backbone.cache import row_key
from backbone.errors import InputError
from backbone.home import resolve_backbone
from backbone.meshes.rules import check_rules
from backbone.records import decode
from backbone.storage import Backbone, kept_backbone, on_mesh
from backbone.trees import shapes
from trainers.config import Data, EarlyExits, OutOfScope, Plan, TrainConfig
from trainers.config.load import override_part
from trainers.data.batches import Examples, part_of
from trainers.data.examples import TaskData, load_data
from trainers.data.prepare import SPLITS
from trainers.runs.run import Run
from trainers.scoring.risk import min_rows as exit_rows

CLIMBED_BLOCKS = 2  # blocks that the step `top` of a climb trains


@dataclass(frozen=True)
class Inputs:
    """Everything that is read, before anything is computed."""

    config: TrainConfig  # its head is completed from the train rows
    folder: Path  # folder of the backbone
    backbone: Backbone
    data: TaskData
    calibration: Examples | None = None  # train rows that nothing is fitted to, for early exits
    bare: GraftModel | None = None  # model whose features the out-of-scope score measures
    judged_on_dev: bool = False  # a gate will judge on the development rows, so nothing may be fitted to them

    @property
    def train(self) -> Examples:
        """Returns the train rows."""
        return self.data.splits["train"]

    @property
    def dev(self) -> Examples | None:
        """Returns the development rows, if there are any."""
        return self.data.splits.get("dev")

    @property
    def dev_is_shared(self) -> bool:
        """Returns whether a probe may be fitted to the development rows once they have chosen it."""
        return self.dev is not None and not self.config.data.dev and not self.judged_on_dev

    def model(self) -> GraftModel:
        """Returns the model of the config."""
        return graft_model(self.config, self.backbone, self.data.labels)

    def probe(self, *boundaries: int) -> GraftModel:
        """Returns the head of the config on the pooled states of `boundaries`; default: of the last one."""
        return GraftModel(
            self.backbone.network, (Probe(boundaries=boundaries or (-1,)),), self.config.head, self.data.labels
        )


def prepare(
    config: TrainConfig,
    run: Run,
    *,
    labels: Sequence[str] | None = None,
    splits: Sequence[str] = SPLITS,
) -> Inputs:
    """Reads backbone and rows, and checks that the config fits them. Raises InputError for anything that does not.

    `labels` are those of an existing graft; without them the train rows decide.
    """
    with run.phase("load"):
        backbone = on_mesh(kept_backbone(resolve_backbone(config.backbone), precision=config.precision), config.mesh)
    with run.phase("data"):
        data = load_data(config.data, config.head, backbone, labels=labels, splits=splits, show=run.show)
    moved = tuple(sorted({*config.data.moved, *(row.hash for row in data.report.moved)}))
    config = replace(config, head=data.head, data=replace(config.data, moved=moved))
    bare = bare_model(config, backbone, data) if config.out_of_scope.false_alarms else None
    calibration: Examples | None = None
    if config.exits.boundaries:
        data, calibration = split_off_calibration(config, backbone, data)
    model: GraftModel | None = None
    if config.climbs:
        require_climb(config, backbone, data.labels)
    else:
        model = graft_model(config, backbone, data.labels)
    backbone.layout.mesh.check_batch(config.batch_size)
    check_rules(backbone.layout.mesh, shapes({**backbone.params, **(model.abstract() if model else {})}))
    return Inputs(config, backbone.path, backbone, data, calibration, bare)


def only_rows(config: TrainConfig) -> TrainConfig:
    """Returns the config without the parts that only a training needs; for callers that read rows and score them."""
    plan = Plan(stages="all", cache=config.plan.cache, cache_gib=config.plan.cache_gib)
    return replace(config, plan=plan, out_of_scope=OutOfScope(), exits=EarlyExits())


def graft_model(config: TrainConfig, backbone: Backbone, labels: tuple[str, ...]) -> GraftModel:
    """Returns the model of a config. Blocks that the schedule never trains get no adapter."""
    methods, first = config.methods, config.plan.schedule.first_adapted(backbone.spec.blocks)
    if first and config.adapter.acts_at_sites:
        if any(getattr(method, "blocks", "") for method in methods):
            raise InputError(
                f"adapter.blocks: plan.stages={config.plan.stages} decides the blocks; leave one of them out"
            )
        methods = tuple(above(method, first, backbone.spec.blocks) for method in methods)
    return GraftModel(backbone.network, methods, config.head, labels)


def require_climb(config: TrainConfig, backbone: Backbone, labels: tuple[str, ...]) -> None:
    """Raises InputError where a climb may not train the top block."""
    climbed_blocks(config, backbone.spec.blocks)
    GraftModel(backbone.network, config.methods, config.head, labels)


def climbed_blocks(config: TrainConfig, blocks: int) -> tuple[int, int]:
    """Returns the lowest block that a climb may adapt, and the boundary below the blocks of its step `top`."""
    lowest = blocks
    for text in (getattr(method, "blocks", "") for method in config.methods):
        allowed = block_range(text, blocks)
        if allowed.stop != blocks:
            raise InputError(f"adapter.blocks: {text!r} leaves out the top block; auto grafts downward from it")
        lowest = min(lowest, allowed.start)
    return lowest, max(lowest, blocks - CLIMBED_BLOCKS)


def bare_model(config: TrainConfig, backbone: Backbone, data: TaskData) -> GraftModel:
    """Returns the model whose features the out-of-scope score measures; raises InputError where none can be."""
    settings, blocks = config.out_of_scope, backbone.spec.blocks
    if not -blocks - 1 <= settings.boundary <= blocks:
        raise InputError(f"out_of_scope.boundary: {settings.boundary} is not in 0..{blocks} (or negative from the end)")
    rows, needed = len(data.splits["dev"]) if "dev" in data.splits else 0, scope_rows(settings.false_alarms)
    if rows < needed:
        raise InputError(
            f"out_of_scope.false_alarms: {settings.false_alarms:g} needs at least {needed} development rows, got "
            f"{rows}; set data.dev or data.dev_fraction, or allow more false alarms"
        )
    boundary = settings.boundary % (blocks + 1)
    return GraftModel(backbone.network, (Probe(boundaries=(boundary,)),), config.head, data.labels)


def split_off_calibration(config: TrainConfig, backbone: Backbone, data: TaskData) -> tuple[TaskData, Examples]:
    """Returns the data without the calibration rows of early exits, and those; raises InputError where too few.

    These rows are a share of the train rows, chosen by hash. The adapter, early stopping, the choice of a climb's step
    and the exits' heads never see them. Development rows would not do: they choose the epoch.
    """
    settings, blocks, train = config.exits, backbone.spec.blocks, data.splits["train"]
    if wrong := [boundary for boundary in settings.boundaries if not 0 < boundary < blocks]:
        raise InputError(f"exits.boundaries: {wrong[0]} is not in 1..{blocks - 1}, below the last block")
    chosen = np.array([_place(row, config.seed) < settings.share for row in train.rows])
    rows, needed = int(chosen.sum()), exit_rows(settings.extra_error, 1 - settings.confidence)
    if rows < needed:
        raise InputError(
            f"exits.extra_error: {settings.extra_error:g} at confidence {settings.confidence:g} needs at least "
            f"{needed} calibration rows, and more where an exit errs; exits.share={settings.share:g} of the train rows "
            f"are {rows}: raise the share, add rows, or allow a larger error"
        )
    rest = part_of(train, np.flatnonzero(~chosen))
    return replace(data, splits={**data.splits, "train": rest}), part_of(train, np.flatnonzero(chosen))


def _place(row: TokenRow, seed: int) -> float:
    """Returns a number in [0, 1) from the tokens.

    Equal rows stay on one side, and none moves when the data grow. Another seed draws other rows, so that a promise
    over draws can be seen over seeds.
    """
    return int.from_bytes(hashlib.sha256(b"exits %d " % seed + row_key(row)).digest()[:6], "big") / 2**48


def data_of(graft: Graft, overrides: Sequence[str] = ()) -> Data:
    """Returns the settings of the rows that a stored graft was trained on, with `data.x=y` in their place."""
    assert graft.manifest is not None
    stored: Mapping[str, Any] = graft.manifest.training.config.get("data", {})
    return override_part(decode(Data, dict(stored), "data"), "data", tuple(overrides))
