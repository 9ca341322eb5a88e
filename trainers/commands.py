"""The verbs of `trainers`, one class each: train, plan, retrain and their like. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from backbone.errors import InputError
from backbone.options import argument, option
from backbone.verbs import InPrecision, OfGraft, OnBackbone, Verb
from registry.place import Place
from trainers.config import TrainConfig
from trainers.config.load import SCRIPT, Overridden, Scripted, load_as
from trainers.retrain.outcome import Job, Options


@dataclass(frozen=True, kw_only=True)
class Run(Scripted, Verb):
    """A training run of a config in a work folder."""

    workdir: str | None = option(None, "folder of the run (default: runs/NAME)")
    resume: bool = option(False, "continue an interrupted run")

    def folder(self, name: str) -> Path:
        """Returns the work folder of a run of the config `name`."""
        return Path(self.workdir) if self.workdir else Path("runs") / name


@dataclass(frozen=True, kw_only=True)
class TrainBackbone(Run, verb="train-backbone"):
    def call(self) -> object:
        """Trains a backbone from text or labelled images."""
        from trainers.pretraining.config import BackboneConfig
        from trainers.train_backbone import train_backbone

        config = self.load(BackboneConfig)
        return train_backbone(config, self.folder(config.name), resume=self.resume, show=self.show)


@dataclass(frozen=True, kw_only=True)
class Train(Run, verb="train"):
    config: str = argument(f"{SCRIPT}; or a file of labelled rows")

    def call(self) -> object:
        """Trains a graft from a config script, or from a file whose columns, labels and head are inferred."""
        from trainers.check import inferred_config, is_data
        from trainers.train import train

        data = is_data(self.config, self.overrides)
        config = inferred_config(self.config, self.overrides) if data else self.load(TrainConfig)
        return train(config, self.folder(config.name), resume=self.resume, show=self.show, propose=True)


@dataclass(frozen=True, kw_only=True)
class Precision(Overridden, Verb, verb="precision"):
    backbone: str = argument("backbone folder to measure, or minilm")
    choose: str = option("", "precision of the trunk from now on, or auto (default: only measure)")
    data: str | None = option(None, "config whose train rows tell what a precision loses (default: made-up rows)")

    def call(self) -> object:
        """Measures the precisions of a backbone on this machine, and records the one that its trunk has."""
        from trainers.precision import precision

        config = None if self.data is None else load_as(TrainConfig, self.data, self.overrides)
        result = precision(self.backbone, choice=self.choose, config=config)
        return result if self.json else str(result)


@dataclass(frozen=True, kw_only=True)
class Plan(Scripted, Verb, verb="plan"):
    workdir: str | None = option(None, "folder that keeps the prediction, for the run's report")

    def call(self) -> object:
        """Predicts the cost of a run before anything is trained."""
        from trainers.plan import plan, table

        result = plan(self.load(TrainConfig), Path(self.workdir) if self.workdir else None, show=self.show)
        return result if self.json else table(result)


@dataclass(frozen=True, kw_only=True)
class Retrain(Overridden, Verb, verb="retrain"):
    configs: tuple[str, ...] = argument(SCRIPT, name="config")
    place: Place = field(default_factory=Place)
    options: Options = field(default_factory=Options)
    all: bool = option(False, "retrain several configs; the exit status is the worst of theirs")
    executor: Literal["processes", "ray"] = option("processes", "what runs the tasks of --all")
    workers: int = option(1, "tasks that run at a time, with --all", min=1)

    def call(self) -> object:
        """Trains what changed, and promotes the result if it passes the gate."""
        from trainers.retrain.fleet import attempt, reported, retrain_all

        options = replace(self.options, show=self.show)
        jobs = [Job(config=c, overrides=self.overrides, place=self.place, options=options) for c in self.configs]
        if self.all:
            return retrain_all(jobs, executor=self.executor, workers=self.workers)
        if len(jobs) > 1:
            raise InputError("config: several configs need --all, which gives one entry a task and the worst status")
        return reported(attempt(jobs[0]))


@dataclass(frozen=True, kw_only=True)
class Evaluate(OfGraft, Overridden, OnBackbone, InPrecision, Verb, verb="evaluate"):
    files: tuple[str, ...] = option(
        (), "labelled file; may be repeated (default: the config's splits)", name="file", repeat=True
    )
    submodel: Literal["full", "exits"] = option("full", "part of the graft that answers")

    def call(self) -> object:
        """Scores a graft on labelled rows."""
        from trainers.evaluate import evaluate

        return evaluate(
            self.graft,
            backbone=self.backbone,
            overrides=self.overrides,
            files=self.files,
            precision=self.precision,
            submodel=self.submodel,
            show=self.show,
        )


@dataclass(frozen=True, kw_only=True)
class AuditLabels(Scripted, Verb, verb="audit-labels"):
    max_suspects: int = option(0, "suspects to list; 0 lists all of them", min=0, former="most")

    def call(self) -> object:
        """Lists rows whose label is probably wrong, and duplicates."""
        from trainers.audit_labels import audit_labels

        return audit_labels(self.load(TrainConfig), max_suspects=self.max_suspects, show=self.show)


@dataclass(frozen=True, kw_only=True)
class Check(Overridden, Verb, verb="check"):
    files: tuple[str, ...] = argument("file of labelled rows; further ones are other splits", name="file")

    def call(self) -> object:
        """Checks files of labelled rows: columns, labels, lengths, copies, and what a run would assume."""
        from trainers.check import check

        return check(self.files, self.overrides)


@dataclass(frozen=True, kw_only=True)
class Inspect(Overridden, OnBackbone, Verb, verb="inspect"):
    path: str = argument("graft, run or backbone folder, or config script")

    def call(self) -> object:
        """Describes a graft, a backbone or a config."""
        from trainers.inspect import inspect

        return inspect(self.path, self.overrides, self.backbone)


@dataclass(frozen=True, kw_only=True)
class Cache(Verb, verb="cache"):
    action: Literal["stat", "verify", "gc"] = argument("stat lists the caches, verify reads every byte, gc removes")
    max_gib: float | None = option(
        None, "size down to which gc removes the oldest segments, in GiB", min=0, former="most-gib"
    )

    def call(self) -> object:
        """Lists, verifies or shrinks the boundary caches."""
        from trainers.cache import caches

        return caches(self.action, max_gib=self.max_gib)


VERBS: tuple[type[Verb], ...] = (
    TrainBackbone,
    Train,
    Precision,
    Plan,
    Retrain,
    Evaluate,
    AuditLabels,
    Check,
    Inspect,
    Cache,
)
