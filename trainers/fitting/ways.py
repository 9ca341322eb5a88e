"""The ways to a graft's parameters, each a function of (inputs, run).

probe       a head that is fitted in closed form to features of the bare backbone
new_head    the same, on the features of an adapter that exists
steps       gradient steps through the stages of the plan
climb       the cheapest of several that is good enough (`trainers.fitting.climb`)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import jax
import numpy as np

from adapters.model import GraftModel
from backbone.trees import Params, map_leaves
from trainers.data.batches import Examples
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.features import features, open_cache
from trainers.fitting.linear_head import SHRUNK, FittedProbe, fit_linear, fitted_labels, shrunk_head, vector_model
from trainers.fitting.loop import fit
from trainers.fitting.progress import Progress, rows_of_steps
from trainers.fitting.ranks import narrowed
from trainers.fitting.state import LoopState
from trainers.fitting.task import GraftTask
from trainers.fitting.warm_start import Parent, grown
from trainers.inputs import Inputs
from trainers.runs.checkpoints import FOLDER, Checkpoints
from trainers.runs.logs import Scalars
from trainers.runs.result import ClimbRecord
from trainers.runs.run import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unseen:
    """Rows that the head was fitted to in the end, as heads answer that had not seen them."""

    how: str  # "out of fold", or "held out"
    logits: np.ndarray  # logits float32 [N,C]
    labels: np.ndarray  # labels as the head encodes them


@dataclass(frozen=True)
class Fitted:
    """The result of a way."""

    model: GraftModel
    params: Params  # {"adapter", "head"} on the host
    steps: int = 0  # micro-batches run, in all processes of the run
    progress: Progress = field(default_factory=Progress)
    resumed: bool = False  # the run had been interrupted
    climb: tuple[ClimbRecord, ...] = ()  # what a climb tried, in order
    dev_logits: np.ndarray | None = None  # logits of the development rows, where they are known
    unseen: Unseen | None = None  # rows that were fitted after they had been held out


def probe(inputs: Inputs, run: Run) -> Fitted:
    """Fits a head to the pooled states of the bare backbone."""
    model = inputs.model()
    return _with_head(inputs, run, model, fresh_params(inputs, model))


def new_head(inputs: Inputs, run: Run, parent: Parent) -> Fitted:
    """Fits a head to the features of the parent's adapter."""
    model = parent.model(inputs.backbone, inputs.config, inputs.data.labels)
    params = {**fresh_params(inputs, model), "adapter": parent.params.get("adapter", {})}
    return _with_head(inputs, run, model, params)


def steps(inputs: Inputs, run: Run, parent: Parent | None = None) -> Fitted:
    """Trains through the plan's stages, from the parent, from a fitted head, or from zero as `head_start` says."""
    config, backbone = inputs.config, inputs.backbone
    model = inputs.model() if parent is None else parent.model(backbone, config, inputs.data.labels)
    task = graft_task(inputs, run, model)
    log.info("stages end at micro-batches %s", [span.until for span in task.spans])  # or the plan fits no run
    with Checkpoints(run.workdir / FOLDER, run.identity) as checkpoints:
        resumed = checkpoints.notes() is not None
        with run.phase("probe"):
            params = fresh_params(inputs, model)
            if parent is not None:
                params = grown(parent, model, config, backbone, inputs.train, run.computed)
            elif config.head_start == "shrunk_probe" and not resumed:
                params["head"] |= small_head(inputs, run, model, params)
            elif config.head_start == "probe" and not resumed:
                params["head"] |= best_head(inputs, run, model, params, keep=True).head
        with run.phase("train"):
            task = task.in_folder(run.workdir)
            state = LoopState(task, params)
            state.restore(checkpoints)
            fit(task, state, checkpoints, Scalars(run.workdir, state.done), show=run.show)
    run.computed.rows += rows_of_steps(state.progress.stages, config.batch_size)
    params = chosen_params(task, state)
    if config.ranks.max_bytes:
        model, params = narrowed(model, params)
    return Fitted(model, params, state.done, state.progress, resumed)


def graft_task(inputs: Inputs, run: Run, model: GraftModel) -> GraftTask:
    """Returns the task of the loop: rows, order and cache."""
    config, backbone, train = inputs.config, inputs.backbone, inputs.train

    def bare_features(plain: GraftModel) -> np.ndarray:
        return features(config.plan, plain, backbone, {}, [train], run)[0]

    difficulty = difficulty_of(config, model, backbone, train, bare_features)
    return GraftTask(
        config,
        model,
        backbone,
        train,
        inputs.dev,
        difficulty,
        lambda adapter: open_cache(config.plan, model, backbone, adapter, run),
    )


def chosen_params(task: GraftTask, state: LoopState) -> Params:
    """Returns the parameters that the run keeps: those of the best evaluation, or the last."""
    best = task.config.select == "best" and task.dev is not None
    return map_leaves(np.asarray, state.best if best else state.params)


def fresh_params(inputs: Inputs, model: GraftModel) -> Params:
    """Returns the parameters before the first step, on the host."""
    return map_leaves(np.asarray, model.init(jax.random.key(inputs.config.seed)))


def _with_head(inputs: Inputs, run: Run, model: GraftModel, params: Params) -> Fitted:
    with run.phase("probe"):
        params["head"] = {**params["head"], **best_head(inputs, run, model, params, keep=True).head}
    return Fitted(model, params)


def small_head(inputs: Inputs, run: Run, model: GraftModel, params: Params) -> Params:
    """Returns the head that adapters start from: fitted to the train rows, with small weights."""
    x = features(inputs.config.plan, model, inputs.backbone, params["adapter"], [inputs.train], run, keep=False)[0]
    vectors, _ = vector_model(model, inputs.config.metric)
    return FittedProbe(shrunk_head(vectors, x, fitted_labels(model, inputs.train.labels)), SHRUNK, {}).head


def best_head(inputs: Inputs, run: Run, model: GraftModel, params: Params, *, keep: bool) -> FittedProbe:
    """Fits the head to the features that the adapter gives; its strength is chosen on the development rows."""
    config, dev = inputs.config, inputs.dev
    splits: list[Examples] = [inputs.train, *([dev] if dev is not None else [])]
    x = features(config.plan, model, inputs.backbone, params["adapter"], splits, run, keep=keep)
    vectors, metric = vector_model(model, config.metric)
    held_out = (x[1], fitted_labels(model, dev.labels)) if dev is not None else None
    result = fit_linear(vectors, x[0], fitted_labels(model, inputs.train.labels), held_out, metric)
    log.info("probe: l2 %g, development %s by l2 %s", result.strength, metric, result.scores)
    return result
