"""One training run as data: the dataclass that a config script returns. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from adapters.heads.head import Head, kinds_for
from adapters.methods.method import Method
from adapters.methods.settings import reaches_top
from adapters.specs import Classification, Lora
from adapters.target import Target
from backbone.console.log_lines import one_line
from backbone.errors import InputError
from backbone.meshes.mesh import Mesh
from backbone.precisions.precision import precision_named
from backbone.records import newer
from trainers.config.curriculum import Curriculum
from trainers.config.data import Data
from trainers.config.extras import EarlyExits, OutOfScope
from trainers.config.optimizer import Optimizer
from trainers.config.plan import AUTO, Plan
from trainers.config.ranks import Ranks
from trainers.config.retrain import Retrain
from trainers.penalties.penalty import Penalty, rank_axes, require_subjects
from trainers.subsets.random import RandomSubset
from trainers.subsets.subset import Subset

SHRUNK_PROBE: Literal["shrunk_probe"] = "shrunk_probe"


@dataclass(frozen=True)
class TrainConfig:
    """One training run: a graft from rows."""

    name: str = "graft"  # name of the task, and of the output folder
    backbone: str = "minilm"  # backbone folder, or minilm (imported on first use)
    precision: str = ""  # precision of the backbone; "" = the one recorded for it, float32 where none is
    data: Data = field(default_factory=Data)
    subset: Subset = field(default_factory=RandomSubset, metadata=newer())  # train rows that the run learns from
    adapter: Method = field(default_factory=Lora)
    extra: tuple[Method, ...] = ()  # methods beside `adapter` in the same graft, in the order they act
    head: Head = field(default_factory=Classification)
    optimizer: Optimizer = field(default_factory=Optimizer)
    plan: Plan = field(default_factory=Plan)
    mesh: Mesh = field(default_factory=Mesh)  # devices of the run; the default is one
    target: Target = field(default_factory=Target)
    curriculum: Curriculum = field(default_factory=Curriculum)
    retrain: Retrain = field(default_factory=Retrain)
    out_of_scope: OutOfScope = field(default_factory=OutOfScope)
    exits: EarlyExits = field(default_factory=EarlyExits)
    penalties: tuple[Penalty, ...] = field(default=(), metadata=newer())  # terms that are added to the loss
    ranks: Ranks = field(default_factory=Ranks, metadata=newer())
    head_start: Literal["shrunk_probe", "probe", "zero"] = SHRUNK_PROBE
    # what adapters start from: a fitted probe with small weights, the best one, or a zero head; a climb has the first
    epochs: float = 3.0  # passes over the train rows
    batch_size: int = 32  # rows per micro-batch
    remat: bool = False  # recompute each block in the backward pass instead of storing it
    seed: int = 0  # random seed of initialisation, order and dropout
    select: Literal["best", "last"] = "best"  # parameters kept: best development epoch, or the last
    patience: int = 0  # epochs without a better development score before stopping; 0 = never
    metric: str = "accuracy"  # metric that decides best and patience; one of the head's
    log_every: int = 20  # micro-batches between logged scalars; also at each epoch's end
    checkpoint_seconds: float = 120.0  # between asynchronous checkpoints; also at each epoch's end
    input_threads: int = 1  # threads that assemble batches ahead of the device

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name: {self.name!r} must be a plain folder name")
        if one_line(self.name) != self.name:
            raise InputError(f"name: {self.name!r} holds a line end or a control character; use letters, digits and -")
        if not (1e-6 <= self.epochs < 1e6):
            raise InputError(f"epochs: must be positive, at least 1e-6 and below 1e6, got {self.epochs}")
        for name in ("batch_size", "log_every", "input_threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        self.mesh.check_batch(self.batch_size)
        if self.precision:
            precision_named(self.precision)
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: must lie in 0..{2**32 - 1}, got {self.seed}")
        alone = [method.tag for method in self.methods if method.stands_alone]
        if self.extra and alone:
            raise InputError(f"extra: {alone[0]} reads hidden states and stands alone, as `adapter` without `extra`")
        if self.curriculum.difficulty == "column" and not self.data.difficulty:
            raise InputError("curriculum.difficulty: column needs data.difficulty, the name of the column")
        if self.patience < 0 or self.checkpoint_seconds < 0:
            raise InputError("patience: neither this nor checkpoint_seconds may be negative")
        require_subjects(self.penalties, self.methods)
        if self.plan.max_memory_mb and self.adapter.fitted:
            raise InputError(f"plan.max_memory_mb: {self.adapter.tag} is fitted without steps; leave the budget out")
        self._check_ranks()
        self._check_head()

    def _check_ranks(self) -> None:
        """Raises InputError where a budget of bytes has no ranks to choose among, or no fixed stage to do so in."""
        if not self.ranks.max_bytes:
            return
        if lacking := [method.tag for method in self.methods if not (rank_axes(method) and method.adapts_ranks)]:
            raise InputError(
                f"ranks.max_bytes: {lacking[0]} has no ranks that may differ from site to site; use lora or dora alone"
            )
        if self.climbs:
            raise InputError("ranks.max_bytes: needs stages that are known; set plan.stages to all or top(k), not auto")

    def _check_head(self) -> None:
        """Raises InputError unless the head and the rest of the config agree."""
        head, gate = self.head, self.retrain.gate
        metrics = {"metric": self.metric}
        if "retrain" in head.supports:
            metrics["retrain.gate.metric"] = gate.metric
            metrics |= {f"retrain.gate.bounds[{i}].metric": bound.metric for i, bound in enumerate(gate.bounds)}
        for field_name, metric in metrics.items():
            if metric not in head.metrics:
                known = ", ".join(head.metrics)
                raise InputError(f"{field_name}: {metric!r} is no metric of head.kind={head.kind}; one of {known}")
        files = self.data.file_format
        if files is not None and files.labels_per == "word" and head.one_answer_per != "word":
            raise InputError(f"data.format: {files.tag} holds tags of words; it needs head.kind=token_tagging")
        require_pair(self.data, head)
        if self.subset.reads_labels and "audit" not in head.supports:
            raise InputError(
                f"subset.method: {self.subset.tag} reads one label a row; it needs head.kind={kinds_for('audit')}, got "
                f"{head.kind}; use random, kcentre or facility"
            )
        if self.out_of_scope.false_alarms and not ("out_of_scope" in head.supports and head.pair == "none"):
            raise InputError(
                "out_of_scope: measures the distance to classes of single inputs; it needs "
                f"head.kind={kinds_for('out_of_scope')} and head.pair=none, got {head.kind} and {head.pair}"
            )
        if self.exits.boundaries and not ("early_exits" in head.supports and head.pair == "none"):
            raise InputError(
                "exits.boundaries: an exit is a classifier of single inputs; it needs "
                f"head.kind={kinds_for('early_exits')} and head.pair=none, got {head.kind} and {head.pair}"
            )
        if head.pooling == "attention" and self.adapter.fitted:
            raise InputError(
                f"head.pooling: attention is learned by gradient, a {self.adapter.tag} is fitted to fixed features; "
                "use another pooling, or another adapter.method"
            )
        if head.one_answer_per != "row":
            for name, value, probing in (
                ("plan.stages", self.plan.stages, AUTO),
                ("curriculum.difficulty", self.curriculum.difficulty, "probe_loss"),
            ):
                if value == probing:
                    raise InputError(
                        f"{name}: {value} fits probes to one vector per row; head.kind={head.kind} has one per "
                        f"{head.one_answer_per}: name another"
                    )

    @property
    def climbs(self) -> bool:
        """Returns whether a run climbs: where the plan says so, and by default where head, methods and ranks allow it.

        A method that never differentiates the backbone is a step of its own.
        """
        if not self.adapter.differentiates_backbone:
            return False
        return self.plan.stages == AUTO or (self.plan.is_open and self._allows_climb)

    @property
    def _allows_climb(self) -> bool:
        """Returns whether probes fit the head, adapters may act in the top block, and no setting needs fixed stages.

        A climb decides itself what adapters start from, so another start is such a setting.
        """
        probes_fit = self.head.one_answer_per == "row" and self.head.pooling != "attention"
        reach_top = all(reaches_top(getattr(method, "blocks", "")) for method in self.methods)
        return probes_fit and reach_top and not self.ranks.max_bytes and self.head_start == SHRUNK_PROBE

    @property
    def methods(self) -> tuple[Method, ...]:
        """Returns every method of the graft."""
        return (self.adapter, *self.extra)


def require_pair(data: Data, head: Head) -> None:
    """Raises InputError unless the head reads pairs exactly where the data hold them."""
    if head.pair == "none" and data.text_pair:
        raise InputError(
            f"head.pair: data.text_pair={data.text_pair} needs cross, two_tower or cosine, and a head.kind that reads "
            f"pairs ({kinds_for('pairs', ', ')}), got {head.pair}"
        )
    if head.pair != "none" and not data.text_pair:
        raise InputError(f"data.text_pair: head.pair={head.pair} needs the column of the second text")
