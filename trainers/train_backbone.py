"""The verb `train-backbone`: a config to a backbone folder.

    result = train_backbone(load_as(BackboneConfig, "text_mlm"), Path("runs/text_mlm"))

Reads top to bottom: material, first weights, the loop, the folder. A work folder holds `config.json`,
`tokenizer.json` (of text), `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `backbone/`, `head.safetensors` (the
objective's head, for a later start and for export) and `result.json`.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from adapters.machine import ready_to_compute
from backbone.files import write_durable
from backbone.meshes.mesh import Mesh
from backbone.meshes.processes import join, leads, losing_none, require_same, said_by_all, several, together
from backbone.meshes.rules import check_rules
from backbone.network.masked_head import load_head, save_head
from backbone.orbax import save_tree
from backbone.records import decode, digest, encode
from backbone.storage import Backbone, BackboneRecord, read_record, save_backbone
from backbone.trees import Params, count, map_leaves, shapes
from metering.cost import CostRecord
from metering.window import Cost, cpu_seconds, wall_seconds, window
from trainers.config.former import without_newer
from trainers.config.own import own_identity
from trainers.pretraining.config import BackboneConfig
from trainers.pretraining.loop import BackboneTask, FittedBackbone, fit_backbone
from trainers.pretraining.material import Material
from trainers.pretraining.teacher import named_backbone
from trainers.runs.checkpoints import FOLDER, Checkpoints
from trainers.runs.workdir import RESULT, claimed_by_all

log = logging.getLogger(__name__)

TIMES = ("max_seconds", "checkpoint_seconds")
FREE = (*TIMES, "mesh")  # fields that decide no weight beyond rounding, so a resumed run may change them


@dataclass(frozen=True)
class TrainBackboneResult:
    """The result of `train-backbone`; `--json` prints it."""

    backbone: str  # folder, usable by `topgraft train`
    weights_id: str
    preprocessing_id: str
    finished: bool  # false: max_seconds were over; --resume continues
    steps: int  # micro-batches so far
    of_steps: int  # micro-batches of the whole run
    held_out_loss: float  # nats per prediction: a token, or an image
    held_out_accuracy: float | None  # share of right predictions; None where the objective scores none
    unigram_entropy: float | None  # entropy of the held-out tokens, nats: the loss without context; None for images
    gain: float | None  # unigram_entropy - held_out_loss; None where the first is
    train_tokens: int | None  # tokens of the training text; None for images
    train_rows: int  # sequences of text, or images
    parameters: int  # scalars of the backbone
    skipped: int  # micro-batches whose loss or gradient was not finite
    seconds: float  # wall time since the process started
    cpu_seconds: float  # CPU time of this process
    costs: dict[str, CostRecord]  # cost of each phase of this process
    resumed: bool
    known_answers: str = ""  # verdict on the compiler, right-... or wrong-...


def train_backbone(
    config: BackboneConfig, workdir: Path, *, resume: bool = False, show: bool = False
) -> TrainBackboneResult:
    """Trains a backbone in `workdir`.

    With `resume` a run that was interrupted, or stopped by `max_seconds`, continues from its newest checkpoint.
    Same config, data and machine: same weights, killed or not. `show` draws progress. Raises InputError for bad text
    or images, config or start. Several processes (`backbone.meshes.processes`) share the folder, and the first one
    writes; ConnectionError where one of them is lost.
    """
    join(config.mesh)
    with losing_none(), claimed_by_all(workdir, encode(config), resume, free=FREE, kind=BackboneConfig) as stored:
        if stored is not None and stored.get("finished"):
            return decode(TrainBackboneResult, stored, str(workdir / RESULT))
        return _train_backbone(config, workdir, resume, show, ready_to_compute().verdict)


def _train_backbone(
    config: BackboneConfig, workdir: Path, resume: bool, show: bool, known_answers: str
) -> TrainBackboneResult:
    """Trains in a folder that is claimed."""
    costs: dict[str, Cost] = {}
    with together():
        with window("data") as costs["data"]:
            start = _load_start(config)
            material = config.objective.read(config, workdir, start, show=show)
        params = _first_params(config, material, start)
        parameters = count(params["backbone"])
        task = BackboneTask(config, material)
        task.layout.mesh.check_batch(config.batch_size)
        check_rules(task.layout.mesh, shapes({**params["backbone"], "head": params["head"]}))
    values = encode(replace(config, mesh=Mesh()))
    identity = {
        "config": digest({**without_newer(values, encode(BackboneConfig())), **dict.fromkeys(TIMES)}),
        **material.fingerprint,
        "preprocessing_id": material.preprocessing.preprocessing_id,
        "start": start.weights_id if start else "",
        **own_identity(config),
    }
    require_same(identity)
    with Checkpoints(workdir / FOLDER, identity) as checkpoints:
        resumed = checkpoints.notes() is not None
        with window("train") as costs["train"]:
            fitted = fit_backbone(task, params, checkpoints, workdir, show=show)
    record = _stored(config, workdir, material, start, fitted, replace=resume)
    loss, entropy = fitted.held_out["loss"], config.objective.context_free_loss(material)
    result = TrainBackboneResult(
        backbone=str(workdir / "backbone"),
        weights_id=record.weights_id,
        preprocessing_id=record.preprocessing_id,
        finished=fitted.steps == task.total_steps,
        steps=fitted.steps,
        of_steps=task.total_steps,
        held_out_loss=loss,
        held_out_accuracy=fitted.held_out.get("accuracy"),
        unigram_entropy=entropy,
        gain=None if entropy is None else entropy - loss,
        train_tokens=material.train_tokens,
        train_rows=material.rows["train"],
        parameters=parameters,
        skipped=fitted.skipped,
        seconds=round(wall_seconds(), 3),
        cpu_seconds=round(cpu_seconds(), 3),
        costs={name: cost.record() for name, cost in costs.items()},
        resumed=resumed,
        known_answers=known_answers,
    )
    if leads():
        write_durable(workdir / RESULT, json.dumps(encode(result), indent=1).encode())
    return result


def _stored(
    config: BackboneConfig,
    workdir: Path,
    material: Material,
    start: Backbone | None,
    fitted: FittedBackbone,
    *,
    replace: bool,
) -> BackboneRecord:
    """Writes the backbone and the head, once for all processes; returns the description of the backbone."""
    source = {"source": "train-backbone", "name": config.name, "family": material.family}
    if start:
        source["start"] = start.weights_id
    spec, weights, preprocessing = material.network.spec, fitted.params["backbone"], material.preprocessing
    written = _written_by_all(workdir, weights) if several() else None
    if leads():
        target = workdir / "backbone"
        record = save_backbone(target, spec, weights, preprocessing, source, replace=replace, written=written)
        save_head(workdir, fitted.params.get("head", {}), record.weights_id, material.labels)
    said_by_all("written")  # the others wait for it
    return read_record(workdir / "backbone")


def _written_by_all(workdir: Path, weights: Params) -> Path:
    """Returns a folder to which the processes have written the weights; Orbax needs all of them for it."""
    folder = workdir / "weights"
    if leads():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    said_by_all("removed")
    save_tree(folder, weights)
    return folder


def _load_start(config: BackboneConfig) -> Backbone | None:
    """Returns the backbone to continue from; of a run, the one inside. Raises InputError if it reads something else."""
    if not config.start:
        return None
    return named_backbone(config.start, config.objective.reads, "start", config.objective.tag)


def _first_params(config: BackboneConfig, material: Material, start: Backbone | None) -> Params:
    """Returns {"backbone", "head"} before the first step, float32 on the host."""
    weights, head = jax.random.split(jax.random.key(config.seed))
    objective = config.objective
    if start is not None:
        params = {"backbone": start.params}
    elif material.first_weights is not None:
        params = {"backbone": material.first_weights}
    else:
        assert config.network is not None, "BackboneConfig refuses it without a start"
        params = {"backbone": config.network.init_weights(material.network, weights)}
    if start is not None and config.start_head == "kept":
        expected = jax.eval_shape(lambda: objective.init_head(material, head))
        params["head"] = load_head(start.path.parent, expected, start.weights_id, material.labels)
    else:
        params["head"] = objective.init_head(material, head)
    log.info("weights: %s; head: %s", config.start or "fresh", config.start_head)
    return map_leaves(lambda leaf: np.asarray(leaf, np.float32), params)
