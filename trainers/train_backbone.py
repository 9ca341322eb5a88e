"""The verb `train-backbone`: a config to a backbone folder.

    result = train_backbone(load_as(BackboneConfig, "text_mlm"), Path("runs/text_mlm"))

Reads top to bottom: what is trained on, first weights, the loop, the folder. A work folder holds
`config.json`, `tokenizer.json` (of text), `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `backbone/`,
`head.safetensors` (the objective's head, for going on and for export) and `result.json`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from backbone.files import write_durable
from backbone.home import use_compilation_cache
from backbone.local_start import start_locally
from backbone.masked_head import load_head, save_head
from backbone.records import digest, encode
from backbone.storage import Backbone, save_backbone
from backbone.trees import Params, count, map_leaves
from metering.window import Cost, cpu_seconds, wall_seconds, window
from trainers.pretraining.config import BackboneConfig, NewBert
from trainers.pretraining.loop import BackboneTask, fit_backbone
from trainers.pretraining.material import Material, read_material, start_of
from trainers.runs.checkpoints import FOLDER, Checkpoints
from trainers.runs.workdir import RESULT, claimed, stored_result

log = logging.getLogger(__name__)

FREE = ("max_seconds", "checkpoint_seconds")  # fields that decide no weight, so a resumed run may change them


@dataclass(frozen=True)
class TrainBackboneResult:
    """What `train-backbone` did; `--json` prints it."""

    backbone: str  # folder, usable by `topgraft train`
    weights_id: str
    preprocessing_id: str
    finished: bool  # false: max_seconds were over; --resume goes on
    steps: int  # micro-batches so far
    of_steps: int  # micro-batches of the whole run
    held_out_loss: float  # nats per predicted token, or per image
    held_out_accuracy: float | None  # of images; None for text
    unigram_entropy: float | None  # of the held-out tokens, nats: the loss that needs no context; None for images
    gain: float | None  # unigram_entropy - held_out_loss; None for images
    train_tokens: int | None  # in the training text; None for images
    train_rows: int  # sequences of text, or images
    parameters: int  # of the backbone
    skipped: int  # micro-batches whose loss or gradient was not finite
    seconds: float  # wall time since the process started
    cpu_seconds: float  # of this process
    costs: dict[str, Any]  # of each phase of this process
    resumed: bool


def train_backbone(
    config: BackboneConfig, workdir: Path, *, resume: bool = False, show: bool = False
) -> TrainBackboneResult:
    """Trains a backbone in `workdir`; raises InputError for bad text or images, config or start.

    With `resume` a run that was interrupted, or stopped by `max_seconds`, goes on from its newest checkpoint.
    Same config, data and machine: same weights, killed or not.
    """
    use_compilation_cache()
    with claimed(workdir, encode(config), resume, free=FREE) as stored:
        if stored is not None and stored.get("finished"):
            return stored_result(TrainBackboneResult, workdir, stored)
        return _train_backbone(config, workdir, resume, show)


def _train_backbone(config: BackboneConfig, workdir: Path, resume: bool, show: bool) -> TrainBackboneResult:
    """The run in a folder that is claimed."""
    costs: dict[str, Cost] = {}
    with window("data") as costs["data"]:
        start = start_of(config)
        material = read_material(config, workdir, start, show=show)
    network, objective = material.network, material.objective
    params = _first_params(config, material, start)
    parameters = count(params["backbone"])
    task = BackboneTask(config, network, objective)
    identity = {
        "config": digest({**encode(config), **dict.fromkeys(FREE)}),
        **material.fingerprint,
        "preprocessing_id": material.preprocessing.preprocessing_id,
        "start": start.weights_id if start else "",
    }
    with Checkpoints(workdir / FOLDER, identity) as checkpoints:
        resumed = checkpoints.notes() is not None
        with window("train") as costs["train"]:
            fitted = fit_backbone(task, params, checkpoints, workdir, show=show)
    family = start.source["family"] if start else material.family
    source = {"source": "train-backbone", "name": config.name, "family": family}
    if start:
        source["start"] = start.weights_id
    record = save_backbone(
        workdir / "backbone", network.spec, fitted.params["backbone"], material.preprocessing, source, replace=resume
    )
    save_head(workdir, fitted.params["head"], record.weights_id, material.labels)
    loss, entropy = fitted.held_out["loss"], material.unigram_entropy
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
        train_rows=objective.rows["train"],
        parameters=parameters,
        skipped=fitted.skipped,
        seconds=round(wall_seconds(), 3),
        cpu_seconds=round(cpu_seconds(), 3),
        costs={name: cost.asdict() for name, cost in costs.items()},
        resumed=resumed,
    )
    write_durable(workdir / RESULT, json.dumps(asdict(result), indent=1).encode())
    return result


def _first_params(config: BackboneConfig, material: Material, start: Backbone | None) -> Params:
    """{"backbone", "head"} before the first step, float32 on the host."""
    weights, head = jax.random.split(jax.random.key(config.seed))
    objective = material.objective
    params = {"backbone": start.params if start else material.network.init(weights)}
    if isinstance(config.network, NewBert) and config.network.first_weights == "local":
        params["backbone"] = start_locally(material.network.spec, params["backbone"])
    if config.start_head == "kept":
        assert start is not None
        wanted = jax.eval_shape(objective.init, head)
        params["head"] = load_head(start.path.parent, wanted, start.weights_id, material.labels)
    else:
        params["head"] = objective.init(head)
    log.info("weights: %s; head: %s", config.start or "fresh", config.start_head)
    return map_leaves(lambda leaf: np.asarray(leaf, np.float32), params)
