"""The verbs of `trainers`, one class each: train, plan, retrain and their like. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from backbone.console.options import argument, option, required
from backbone.console.verbs import InPrecision, IntoFolder, OfGraft, OnBackbone, Verb
from backbone.errors import InputError
from registry.budgets.place import UnderBudgets, budgets_for
from registry.place import Place
from trainers.config import TrainConfig
from trainers.config.dropping import Dropping
from trainers.config.load import SCRIPT, Overridden, Scripted, load_config
from trainers.config.pruning import Pruning
from trainers.config.routing import Routing
from trainers.retrain.outcome import Job, Options
from trainers.scenarios.request import Load
from trainers.search.commands import SEARCH_VERBS


@dataclass(frozen=True, kw_only=True)
class Run(Verb):
    """A training run in a work folder."""

    workdir: str | None = option(None, "folder of the run (default: runs/NAME)")
    resume: bool = option(False, "continue an interrupted run")

    def folder(self, name: str) -> Path:
        """Returns the work folder of a run of the config `name`."""
        return Path(self.workdir) if self.workdir else Path("runs") / name


@dataclass(frozen=True, kw_only=True)
class TrainBackbone(Run, Scripted, verb="train-backbone"):
    def call(self) -> object:
        """Trains a backbone from text or labelled images."""
        from trainers.pretraining.config import BackboneConfig
        from trainers.train_backbone import train_backbone

        config = self.load(BackboneConfig)
        return train_backbone(config, self.folder(config.name), resume=self.resume, show=self.show)


@dataclass(frozen=True, kw_only=True)
class Train(Run, Overridden, verb="train"):
    inputs: tuple[str, ...] = argument(
        f"{SCRIPT}; or files of labelled rows: the train file, and dev and test files by their names", name="config"
    )
    budget: float = option(0.0, "CPU seconds of the run, after which a climb tries no further step; 0: no limit", min=0)

    def config(self) -> TrainConfig:
        """Returns the config of the script, or of the files: then columns, labels and head are inferred."""
        from trainers.data.inference import infer, is_data

        settings = (*self.overrides, *((f"target.max_cpu_seconds={self.budget}",) if self.budget else ()))
        if is_data(self.inputs[0], settings):
            inferred = infer(self.inputs, settings)
            inferred.log()
            return inferred.config
        if len(self.inputs) > 1:
            raise InputError(f"{self.inputs[1]}: name one config script, or files of rows alone")
        return load_config(self.inputs[0], settings)

    def call(self) -> object:
        """Trains a graft from a config script, or from files whose columns, labels and head are inferred."""
        from trainers.train import train

        config = self.config()
        return train(config, self.folder(config.name), resume=self.resume, show=self.show, propose=True)


@dataclass(frozen=True, kw_only=True)
class Precision(Overridden, Verb, verb="precision"):
    backbone: str = argument("backbone folder to measure, or minilm")
    choose: str = option("", "precision of the trunk from now on, or auto (default: only measure)")
    data: str | None = option(None, "config whose train rows tell what a precision loses (default: made-up rows)")
    registry: str = option("", "URL of the registry whose whole fleet gets the choice (default: this machine alone)")

    def call(self) -> object:
        """Measures the precisions of a backbone on this machine, and records the one that its trunk has."""
        from trainers.precision import precision

        if self.registry and not self.choose:
            raise InputError("--registry: it records a choice; name one with --choose, or see `registry precision`")
        config = None if self.data is None else load_config(self.data, self.overrides)
        fleet = Place(self.registry).open(create=True) if self.registry else None
        result = precision(self.backbone, choice=self.choose, config=config)
        if fleet is not None:
            from registry.precisions import choose_as_here
            from registry.verbs import whoami

            choose_as_here(fleet, result.weights_id, actor=whoami())
        return result if self.json else str(result)


@dataclass(frozen=True, kw_only=True)
class DistilStatic(IntoFolder, Verb, verb="distil-static"):
    backbone: str = argument("backbone folder that reads text, or minilm")
    width: int = option(256, "numbers of a token's vector")
    texts: tuple[str, ...] = option((), "text file that tells how frequent tokens are", name="text", repeat=True)

    def call(self) -> object:
        """Writes a trunk of no blocks: one vector for each token, distilled from a backbone."""
        from trainers.distil_static import distil_static

        return distil_static(self.backbone, self.out, width=self.width, files=self.texts)


@dataclass(frozen=True, kw_only=True)
class Parent(OnBackbone, IntoFolder, Verb, verb="parent"):
    graft: str = argument("folder of a LoRA graft, whose adapter becomes part of the trunk")

    def call(self) -> object:
        """Writes a trunk with a graft's adapter in it, on which the grafts of several tasks are trained."""
        from trainers.parent import parent

        return parent(self.graft, self.out, backbone=self.backbone)


@dataclass(frozen=True, kw_only=True)
class DropBlocks(IntoFolder, Verb, verb="drop-blocks"):
    backbone: str = argument("backbone folder whose blocks are judged by texts, or minilm")
    blocks: int = required("number of blocks to drop", min=1)
    texts: tuple[str, ...] = option((), "file of texts, one a line, that judge the blocks", name="text", repeat=True)

    def call(self) -> object:
        """Writes a trunk without the blocks that change states least; nothing is trained."""
        from trainers.drop_blocks import drop_blocks

        return drop_blocks(self.backbone, self.out, count=self.blocks, files=self.texts)


@dataclass(frozen=True, kw_only=True)
class Plan(Scripted, UnderBudgets, Verb, verb="plan"):
    workdir: str | None = option(None, "folder that keeps the prediction, for the run's report")

    def call(self) -> object:
        """Predicts the cost of a run before anything is trained."""
        from trainers.plan import Shown, plan

        config, workdir = self.load(TrainConfig), Path(self.workdir) if self.workdir else None
        result = plan(config, workdir, show=self.show, budget=budgets_for(self.budgets).of(config.name))
        return result if self.json else Shown(result)


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
        from trainers.retrain.attempt import attempt, reported
        from trainers.retrain.fleet import retrain_all

        options = replace(self.options, show=self.show)
        jobs = [Job(config=c, overrides=self.overrides, place=self.place, options=options) for c in self.configs]
        if self.all:
            return retrain_all(jobs, executor=self.executor, workers=self.workers)
        for name, value, default in (("executor", self.executor, "processes"), ("workers", self.workers, 1)):
            if value != default:
                raise InputError(f"--{name}: belongs to --all, got {value} without it")
        if len(jobs) > 1:
            raise InputError("config: several configs need --all, which gives one entry a task and the worst status")
        return reported(attempt(jobs[0], from_start=True))


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
class Profile(Overridden, OnBackbone, InPrecision, Verb, verb="profile"):
    graft: str = argument("graft folder; with --scenario also the URL of a server")
    plot: str | None = option(None, "SVG file for a plot of the roofline")
    load: Load = field(default_factory=Load)
    place: Place = field(default_factory=Place)

    def call(self) -> object:
        """Measures what one prediction costs against this machine's roofline, or a load by the rules of MLPerf."""
        if self.place != Place() and not self.load.record:
            raise InputError("--registry, --store: nothing is recorded there; add --scenario and --record TASK:VERSION")
        if self.load.scenario is None:
            from trainers.profile import profile

            if self.overrides:
                raise InputError("--set: rows belong to a scenario: add --scenario")
            return profile(self.graft, backbone=self.backbone, precision=self.precision, plot=self.plot)
        from trainers.scenarios.measure import measure_scenario

        if self.plot is not None:
            raise InputError("--plot: a scenario has no roofline; leave it out")
        return measure_scenario(
            self.graft,
            self.load,
            overrides=self.overrides,
            backbone=self.backbone,
            precision=self.precision,
            place=self.place,
        )


@dataclass(frozen=True, kw_only=True)
class Check(Overridden, Verb, verb="check", former={"audit-labels": "check CONFIG --audit"}):
    inputs: tuple[str, ...] = argument(
        f"file of labelled rows; further ones are other splits; or {SCRIPT}", name="file"
    )
    audit: bool = option(False, "list the rows whose label a probe doubts, which costs a forward pass of every row")
    max_suspects: int = option(0, "rows that --audit lists; 0 lists all of them", min=0)

    def call(self) -> object:
        """Checks labelled rows: columns, labels, lengths, copies, what a run would assume; --audit doubts labels."""
        from trainers.check import audit, check

        if self.audit:
            return audit(self.inputs, self.overrides, max_suspects=self.max_suspects, show=self.show)
        if self.max_suspects:
            raise InputError("--max-suspects: bounds the list of --audit; add --audit")
        return check(self.inputs, self.overrides)


@dataclass(frozen=True, kw_only=True)
class Curate(Scripted, Verb, verb="curate"):
    method: str = option("", "random, kcentre, facility, margin, forgetting, or a method of your own (default: config)")
    share: float | None = option(
        None, "share of the train rows to choose (default: that of the config)", above=0, max=1
    )
    suspects: Literal["", "show", "leave", "relabel"] = option(
        "", "audit the labels, and list, leave out or relabel the rows that a probe doubts (default: no audit)"
    )
    output: str = required("new file of JSON Lines for the rows, each with its reason", nonblank=True, metavar="FILE")

    def call(self) -> object:
        """Writes the train rows that are worth learning from, and a reason for each."""
        from trainers.curate import curate

        method = [f"subset.method={self.method}"] if self.method else []  # first, since it drops the fields beside it
        share = [f"subset.share={self.share}"] if self.share is not None else []
        config = load_config(self.config, (*method, *self.overrides, *share))
        return curate(config, Path(self.output), suspects=self.suspects, show=self.show)


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
    unused_days: int | None = option(
        None, "days after which gc removes downloads and tokenised corpora that nobody has used", min=1
    )

    def call(self) -> object:
        """Lists, verifies or shrinks the boundary caches, and what else the home can do without."""
        from trainers.cache import caches

        return caches(self.action, max_gib=self.max_gib, unused_days=self.unused_days)


@dataclass(frozen=True, kw_only=True)
class Prune(Pruning, OfGraft, OnBackbone, IntoFolder, Overridden, Verb, verb="prune"):
    data: str | None = option(None, "config whose rows judge heads and units (default: the graft's own)")

    def call(self) -> object:
        """Removes heads and mlp units above a boundary from a graft, without training."""
        from trainers.prune import prune

        data = None if self.data is None else load_config(self.data, self.overrides).data
        overrides = () if data is not None else self.overrides
        return prune(self.graft, self.out, self, data=data, overrides=overrides, backbone=self.backbone)


@dataclass(frozen=True, kw_only=True)
class DropTokens(Dropping, OfGraft, OnBackbone, IntoFolder, Overridden, Verb, verb="drop-tokens"):
    def call(self) -> object:
        """Makes a graft drop the tokens that receive least attention, under a certified bound; nothing is trained."""
        from trainers.drop_tokens import drop_tokens

        return drop_tokens(self.graft, self.out, self, overrides=self.overrides, backbone=self.backbone)


@dataclass(frozen=True, kw_only=True)
class Route(Routing, OnBackbone, IntoFolder, Overridden, Verb, verb="route"):
    grafts: tuple[str, ...] = argument(
        "graft folder of one trunk, two or more; NAME=FOLDER names the task otherwise than the graft does", name="graft"
    )

    def call(self) -> object:
        """Makes a router that names the graft which answers an input, or none."""
        from trainers.route import route

        return route(self.grafts, self.out, self, overrides=self.overrides, backbone=self.backbone, show=self.show)


VERBS: tuple[type[Verb], ...] = (
    TrainBackbone,
    Train,
    Precision,
    DistilStatic,
    DropBlocks,
    Parent,
    Plan,
    Retrain,
    Evaluate,
    Check,
    Curate,
    Inspect,
    Cache,
    Prune,
    DropTokens,
    Profile,
    Route,
    *SEARCH_VERBS,
)
