"""The verb `train`: a config to a stored graft.

    result = train(load_config("configs/trec6.py"), Path("runs/trec6"))

Reads top to bottom: data, backbone, model, where the head starts, the loop, the artefact, the report.
A work folder holds `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `graft/` and
`result.json`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters.artifact import save_graft
from adapters.manifest import Training
from adapters.model import GraftModel
from adapters.specs import Ladder, Probe
from backbone.errors import InputError
from backbone.files import write_durable
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.records import digest, encode
from backbone.storage import Backbone, load_backbone
from backbone.trees import Params, count, map_leaves
from metering.window import Cost, cpu_seconds, wall_seconds, window
from trainers.auto import climb
from trainers.batches import Examples
from trainers.boundaries import Boundaries
from trainers.caches import boundaries_folder
from trainers.checkpoints import Checkpoints
from trainers.config import TrainConfig
from trainers.difficulty import difficulty_of
from trainers.examine import examine
from trainers.examples import TaskData, load_data
from trainers.experiment import versions
from trainers.logs import Scalars, bar
from trainers.loop import Fitted, MakeCache, Progress, Task, fit
from trainers.probe import SHRUNK, FittedProbe, fit_linear, pooled_features, shrunk_head
from trainers.report import write_report
from trainers.workdir import RESULT, claim

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What `train` did; `--json` prints it."""

    graft: str  # folder of the artefact
    content_id: str
    metrics: dict[str, dict[str, float]]  # by split, by metric
    steps: int  # micro-batches
    trainable: int  # parameters, head included
    seconds: float  # wall time since the process started
    cpu_seconds: float  # of this process
    costs: dict[str, Any]  # of each phase of this process
    resumed: bool
    stages: list[dict[str, Any]]  # of the freeze plan: boundary, steps, cost
    rungs: list[dict[str, Any]]  # tried by plan.stages=auto: name, score, gain, noise, kept, cost
    report: str  # HTML page about the run


def train(config: TrainConfig, workdir: Path, *, resume: bool = False, show: bool = False) -> TrainResult:
    """Trains and stores a graft in `workdir`; raises InputError for bad data, config or backbone.

    With `resume` a run that was interrupted goes on from its newest checkpoint, and one that had
    finished returns its result. Same config, data, backbone and machine: same parameters, killed or not.
    """
    use_compilation_cache()
    finished = open_workdir(workdir, config, resume)
    if finished is not None:
        return finished
    costs: dict[str, Cost] = {}
    with window("load") as costs["load"]:
        folder = resolve_backbone(config.backbone)
        backbone = load_backbone(folder, dtype=config.compute_dtype)
    with window("data") as costs["data"]:
        data = load_data(config.data, config.head, backbone, show=show)
    rungs: list[dict[str, Any]] = []
    if config.plan.schedule[0] == "auto" and not isinstance(config.adapter, (Probe, Ladder)):
        log.info("rows: %s; %d labels", row_counts(data), len(data.labels))
        with window("climb") as costs["climb"]:
            found = climb(
                config, workdir, backbone, data.labels, data.splits, run_identity(config, backbone, data), show
            )
        rung, rungs, resumed = found.rung, found.tried, found.resumed
        model, fitted = rung.model, Fitted(rung.params, rung.steps, Progress(stages=rung.stages))
    else:
        model = graft_model(config, backbone, data.labels)
        log.info("%s", describe(model, data))
        fitted, resumed = _fit(config, workdir, model, backbone, data, costs, show)

    with window("evaluate") as costs["evaluate"]:
        scores = {name: examine(model, fitted.params, backbone, config, data.splits[name]) for name in held_out(data)}
    metrics = {name: score.metrics for name, score in scores.items()}
    manifest = save_graft(
        workdir / "graft",
        model,
        fitted.params,
        backbone,
        name=config.name,
        max_tokens=config.data.max_tokens,
        training=Training(
            config={**encode(config), "backbone_path": str(folder.resolve())},
            seeds={"seed": config.seed},
            data=data.fingerprint,
            metrics=metrics,
            costs={name: cost.asdict() for name, cost in costs.items()},
            versions=versions(),
        ),
        replace_existing=resume,
    )
    result = TrainResult(
        graft=str(workdir / "graft"),
        content_id=manifest.content_id,
        metrics=metrics,
        steps=fitted.steps,
        trainable=count(fitted.params),
        seconds=round(wall_seconds(), 3),
        cpu_seconds=round(cpu_seconds(), 3),
        costs={name: cost.asdict() for name, cost in costs.items()},
        resumed=resumed,
        stages=fitted.progress.stages,
        rungs=rungs,
        report=str(workdir / "report.html"),
    )
    environment = {"name": config.name, "blocks": backbone.spec.blocks, "backbone": backbone.weights_id, **versions()}
    details = {name: score.details(data.labels) for name, score in scores.items()}
    write_report(workdir, asdict(result), details, environment)
    write_durable(workdir / RESULT, json.dumps(asdict(result), indent=1).encode())
    return result


def open_workdir(workdir: Path, config: TrainConfig, resume: bool) -> TrainResult | None:
    """Makes the folder, or checks that it holds this config's run; the result if that run had finished."""
    result = claim(workdir, encode(config), resume)
    return None if result is None else TrainResult(**result)


def run_identity(config: TrainConfig, backbone: Backbone, data: TaskData) -> dict[str, str]:
    """What a checkpoint must agree with to be gone on from."""
    return {
        "config": digest(encode(config)),
        "data": digest(data.fingerprint),
        "weights_id": backbone.weights_id,
        "preprocessing_id": backbone.preprocessing_id,
    }


def _fit(
    config: TrainConfig,
    workdir: Path,
    model: GraftModel,
    backbone: Backbone,
    data: TaskData,
    costs: dict[str, Cost],
    show: bool,
) -> tuple[Fitted, bool]:
    """The trained parameters, and whether the run had been interrupted."""
    train_rows, dev_rows = data.splits["train"], data.splits.get("dev")
    params = map_leaves(np.asarray, model.init(jax.random.key(config.seed)))
    if isinstance(config.adapter, Probe):
        with window("probe") as costs["probe"]:
            head = start_from_probe(config, model, backbone, params, train_rows, dev_rows, show).head
        return Fitted({**params, "head": head}, 0, Progress()), False
    with Checkpoints(workdir / "checkpoints", run_identity(config, backbone, data)) as checkpoints:
        resumed = checkpoints.notes() is not None
        if config.head_start != "zero" and not resumed:
            with window("probe") as costs["probe"]:
                params["head"] = start_from_probe(config, model, backbone, params, train_rows, dev_rows, show).head
        task = Task(config, model, backbone, train_rows, dev_rows, difficulty_of(config, model, backbone, train_rows))
        with window("train") as costs["train"]:
            fitted = fit(
                task,
                params,
                checkpoints,
                lambda step: Scalars(workdir, step),
                make_cache=cache_maker(config, model, backbone),
                show=show,
            )
        return fitted, resumed


def cache_maker(config: TrainConfig, model: GraftModel, backbone: Backbone) -> MakeCache | None:
    """Opens the boundary cache below a stage, for the adapter that is frozen there; None where there is none."""
    if config.plan.cache == "none":
        return None
    storage, most = config.plan.cache, int(config.plan.cache_gib * 2**30)
    return lambda adapter: Boundaries(model, backbone, adapter, boundaries_folder(), storage, most)


def graft_model(config: TrainConfig, backbone: Backbone, labels: tuple[str, ...]) -> GraftModel:
    """The model of a config. Blocks that are frozen from the first step on get no adapter."""
    adapter = config.adapter
    name, value = config.plan.schedule
    if name == "top" and not isinstance(adapter, (Probe, Ladder)):
        if adapter.blocks:
            raise InputError(
                f"adapter.blocks: plan.stages={config.plan.stages} decides the blocks; leave one of them out"
            )
        adapter = replace(adapter, blocks=f"{max(0, backbone.spec.blocks - int(value))}:")
    return GraftModel(backbone.network, (adapter,), config.head, labels)


def start_from_probe(
    config: TrainConfig,
    model: GraftModel,
    backbone: Backbone,
    params: Params,
    train_rows: Examples,
    dev_rows: Examples | None,
    show: bool,
) -> FittedProbe:
    """The head fitted to the features that the untrained adapter gives: one forward pass."""
    total = len(train_rows) + (len(dev_rows) if dev_rows else 0)
    with bar(total, "features", "row", show=show) as shown:
        features = pooled_features(model, backbone, params["adapter"], train_rows, shown.update)
        dev = None
        if dev_rows is not None:
            dev = pooled_features(model, backbone, params["adapter"], dev_rows, shown.update), dev_rows.labels
    if config.head_start == "shrunk_probe" and not isinstance(config.adapter, Probe):
        return FittedProbe(shrunk_head(model, features, train_rows.labels), SHRUNK, {})
    fitted = fit_linear(model, features, train_rows.labels, dev, config.metric)
    log.info("probe: l2 %g, development %s by l2 %s", fitted.strength, config.metric, fitted.scores)
    return fitted


def held_out(data: TaskData) -> tuple[str, ...]:
    """The splits that a run is scored on."""
    return tuple(name for name in ("dev", "test") if name in data.splits)


def row_counts(data: TaskData) -> str:
    """Rows of each split, for the log."""
    return ", ".join(f"{name} {len(split)}" for name, split in data.splits.items())


def describe(model: GraftModel, data: TaskData) -> str:
    """One line for the log: rows, labels, sites."""
    sites = sum(len(settings) for _, settings in model.site_parts.values())
    methods = ", ".join(spec.method for spec in model.methods)
    return f"rows: {row_counts(data)}; {len(data.labels)} labels; {methods} at {sites} sites"
