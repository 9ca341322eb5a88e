"""The verb `train`: a config to a stored graft.

    result = train(load_config("configs/trec6.py"), Path("runs/trec6"))

Reads top to bottom: inputs, a way to the parameters, scores, extras beside the graft, the artefact, the report.
A work folder holds `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `graft/` and
`result.json`; with a budget of memory, `step_form.json` too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.artefact.manifest import Manifest, Training
from adapters.artefact.write import save_graft
from adapters.graft import Graft
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from backbone.files import write_durable
from backbone.meshes.mesh import Mesh
from backbone.precisions.precision import FLOAT32
from backbone.records import digest, encode
from backbone.trees import count
from metering.window import cpu_seconds, platform, wall_seconds
from trainers.config import TrainConfig
from trainers.config.former import as_begun, former_values
from trainers.config.load import versions
from trainers.config.own import own_identity
from trainers.curation.select import with_subset
from trainers.data.examples import TaskData
from trainers.data.overview import overview
from trainers.extras.early_exits import exits_of, require_unseen
from trainers.extras.out_of_scope import scope_of_run
from trainers.extras.variants import validated
from trainers.fitting import ways
from trainers.fitting.climb import climb
from trainers.fitting.features import logits_of_rows
from trainers.fitting.probes import probe_of, refitted
from trainers.fitting.warm_start import Parent, Start, read_parent
from trainers.fitting.ways import Fitted
from trainers.inputs import Inputs, prepare
from trainers.precision import settle
from trainers.runs.reading import ReadReport
from trainers.runs.result import UNSEEN_SPLITS, Estimate, TrainResult
from trainers.runs.run import Run
from trainers.runs.targets import Limit, costs_of_predicting, costs_of_training
from trainers.runs.workdir import RESULT, claimed, stored_config, stored_result
from trainers.scoring.examine import Examined, examine
from trainers.scoring.intervals import estimate
from trainers.scoring.metrics import gather
from trainers.scoring.predicting import latency, peak_bytes
from trainers.scoring.report import write_report

log = logging.getLogger(__name__)

FREE = ("mesh",)  # fields that a resumed run may change


def train(
    config: TrainConfig,
    workdir: Path,
    *,
    resume: bool = False,
    start: Start | None = None,
    judged_on_dev: bool = False,
    show: bool = False,
    propose: bool = False,
) -> TrainResult:
    """Trains and stores a graft in `workdir`; raises InputError for bad data, config or backbone.

    `start` names a graft to begin from: its methods are trained on, in the stages of the plan.
    With `resume` a run that was interrupted goes on from its newest checkpoint, and one that had
    finished returns its result. With `judged_on_dev` nothing is fitted to the development rows, since a gate will
    judge on them. Same config, data, backbone and machine: same parameters, killed or not. With `propose` a large
    backbone that nothing rests on gets the precision that this machine speeds up.
    """
    config = as_begun(config, stored_config(workdir) if resume else {})
    with claimed(workdir, encode(config), resume, free=FREE, kind=TrainConfig) as stored:
        if stored is not None:
            return stored_result(TrainResult, workdir, stored)
        run = Run(workdir, show, known_answers=ready_to_compute().verdict)
        inputs = replace(prepare(config, run), judged_on_dev=judged_on_dev)
        if propose:
            inputs = replace(inputs, backbone=settle(inputs))
        inputs = with_subset(inputs, run)
        parent = read_parent(start) if start is not None else None
        if parent is not None and inputs.calibration is not None:
            require_unseen(inputs.config, parent.manifest.training.config)
        run.identity = run_identity(inputs, parent)
        introduce(inputs)
        if parent is not None and start is not None and start.head_only:
            model = parent.model(inputs.backbone, inputs.config, inputs.data.labels)
            chosen = start.from_climb and probe_of(model) is not None
            fitted = refitted(inputs, run, model) if chosen else ways.new_head(inputs, run, parent)
        elif parent is not None:
            fitted = ways.steps(inputs, run, parent)
        else:
            fitted = way_of(inputs.config)(inputs, run)
        return _store(inputs, run, fitted, replace_existing=resume)


def way_of(config: TrainConfig) -> Callable[[Inputs, Run], Fitted]:
    """Returns the way that fits the parameters of a config from nothing."""
    if config.climbs:
        return climb
    return ways.probe if config.adapter.fitted else ways.steps


def _store(inputs: Inputs, run: Run, fitted: Fitted, *, replace_existing: bool) -> TrainResult:
    """Scores the fitted graft, adds its extras, and writes the artefact and the report."""
    config, backbone, data = inputs.config, inputs.backbone, inputs.data
    graft = Graft(fitted.model, fitted.params, backbone, config.data.max_tokens)
    scores = _scores(inputs, run, fitted, graft)
    metrics = {name: score.metrics for name, score in scores.items()} | unseen_metrics(fitted)
    variants: tuple[str, ...] = ()
    if backbone.precision != FLOAT32:
        with run.phase("validate"):
            variants, on_float32 = validated(config, inputs.folder, graft, data)
        if on_float32 and fitted.unseen is None:  # else the head was fitted to these rows in the end
            metrics[f"dev_{FLOAT32}"] = on_float32
    scope = scope_of_run(inputs, run, scores["dev"].logits) if inputs.bare is not None else None
    exits = exits_of(inputs, run, graft) if inputs.calibration is not None else None
    origin = versions() | {"known answers": run.known_answers}
    manifest = save_graft(
        run.workdir / "graft",
        fitted.model,
        fitted.params,
        backbone,
        name=config.name,
        max_tokens=config.data.max_tokens,
        training=Training(
            config={**encode(config), "backbone_path": str(inputs.folder.resolve())},
            seeds={"seed": config.seed},
            data=data.fingerprint,
            metrics=metrics,
            costs=encode(run.records()),
            versions=origin,
            rows_read=len(run.computed.read),
        ),
        scope=scope,
        exits=exits,
        variants=variants,
        replace_existing=replace_existing,
    )
    limits = limits_of(inputs, run, graft, metrics)
    facts, estimates = None if exits is None else exits.facts(), estimates_of(inputs, fitted, scores)
    result = result_of(run, fitted, manifest, facts, limits, data.report, estimates)
    environment = {"name": config.name, "blocks": backbone.spec.blocks, "backbone": backbone.weights_id, **origin}
    write_report(run.workdir, result, scores, data.labels, environment)
    write_durable(run.workdir / RESULT, json.dumps(encode(result), indent=1).encode())
    return result


def _scores(inputs: Inputs, run: Run, fitted: Fitted, graft: Graft) -> dict[str, Examined]:
    """Examines every split that is held out."""
    splits = inputs.data.splits
    known = {} if fitted.dev_logits is None else {"dev": fitted.dev_logits}
    with run.phase("evaluate"):
        return {
            name: examine(
                fitted.model,
                splits[name],
                known[name] if name in known else logits_of_rows(inputs.config.plan, graft, splits[name]),
            )
            for name in held_out(inputs.data)
        }


def unseen_metrics(fitted: Fitted) -> dict[str, dict[str, float]]:
    """Returns the metrics of rows that were fitted after they had been held out, under the name of how they were."""
    if (unseen := fitted.unseen) is None:
        return {}
    return {UNSEEN_SPLITS[unseen.how]: gather(fitted.model, unseen.logits, unseen.labels).compute()}


def estimates_of(inputs: Inputs, fitted: Fitted, scores: Mapping[str, Examined]) -> tuple[Estimate, ...]:
    """Returns the config's metric of each split with its interval, and what it was measured on."""
    metric, unseen, splits = inputs.config.metric, fitted.unseen, inputs.data.splits
    parts = [] if unseen is None else [("train and dev", unseen.how, unseen.logits, unseen.labels)]
    for name, score in scores.items():
        if name != "dev" or unseen is None:
            parts.append((name, "test" if name == "test" else "held out", score.logits, splits[name].labels))
    return tuple(estimate(split, how, fitted.model, logits, labels, metric) for split, how, logits, labels in parts)


def limits_of(inputs: Inputs, run: Run, graft: Graft, metrics: Mapping[str, Mapping[str, float]]) -> tuple[Limit, ...]:
    """Returns every limit of the target beside its figure, and logs those that are not kept or not known."""
    target, metric = inputs.config.target, inputs.config.metric
    limits: list[Limit] = []
    if target.min_score:
        score = metrics.get("dev", {}).get(metric)
        reason = "no development rows" if score is None else f"{metric} on the development rows"
        limits.append(Limit("target.min_score", score, target.min_score, reason))
    limits += costs_of_training(target, cpu_seconds(), run.joules())
    rows = (inputs.dev or inputs.train).rows
    peak = peak_bytes(graft, rows) if target.max_memory_mb else None
    limits += costs_of_predicting(target, peak, lambda: latency(graft, rows), platform())
    for limit in limits:
        if not limit.met:
            log.warning("%s", limit)
    return tuple(limits)


def result_of(
    run: Run,
    fitted: Fitted,
    manifest: Manifest,
    exits: dict[str, Any] | None,
    limits: tuple[Limit, ...],
    reading: ReadReport,
    estimates: tuple[Estimate, ...],
) -> TrainResult:
    """Returns the result, which `--json` prints."""
    return TrainResult(
        graft=str(run.workdir / "graft"),
        content_id=manifest.content_id,
        metrics=manifest.training.metrics,
        steps=fitted.steps,
        trainable=count(fitted.params),
        seconds=round(wall_seconds(), 3),
        cpu_seconds=round(cpu_seconds(), 3),
        costs=run.records(),
        resumed=fitted.resumed,
        stages=fitted.progress.stages,
        climb=fitted.climb,
        report=str(run.workdir / "report.html"),
        exits=exits,
        rows_computed=run.computed.rows,
        skipped=fitted.progress.skipped,
        known_answers=run.known_answers,
        limits=limits,
        estimates=estimates,
        reading=reading,
    )


def run_identity(inputs: Inputs, parent: Parent | None = None) -> dict[str, str]:
    """Returns the values that a checkpoint must share to be resumed."""
    start = {} if parent is None else {"start": parent.manifest.content_id}
    return {
        "config": digest(former_values(replace(inputs.config, mesh=Mesh()))),
        "data": digest(inputs.data.fingerprint),
        "weights_id": inputs.backbone.weights_id,
        "preprocessing_id": inputs.backbone.preprocessing_id,
        **start,
        **own_identity(inputs.config, inputs.config.plan.schedule),
    }


def held_out(data: TaskData) -> tuple[str, ...]:
    """Returns the splits that a run is scored on."""
    return tuple(name for name in ("dev", "test") if name in data.splits)


def introduce(inputs: Inputs) -> None:
    """Logs the first lines of a run: its rows, and the sites of the methods unless a climb chooses them."""
    rows = overview(inputs.config, inputs.data)
    for line in rows.lines():
        log.info("%s", line)
    for warning in rows.warnings():
        log.warning("%s", warning)
    if not inputs.config.climbs:
        model: GraftModel = inputs.model()
        sites = sum(len(settings) for _, settings in model.site_parts.values())
        log.info("adapter: %s at %d sites", ", ".join(spec.method for spec in model.methods), sites)
