"""An experiment as data: the frozen dataclasses that a config script returns. Imports no jax.

    from trainers.config import Data, TrainConfig

    def get_config() -> TrainConfig:
        return TrainConfig(backbone="minilm", data=Data(train=("train.csv",), test=("test.csv",)))

Every field has a default, so `--set a.b=c` reaches all of them; derived numbers (steps, boundaries)
are computed after the overrides, never in `get_config`.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapters.specs import Classification, HeadSpec, Ladder, Lora, MethodSpec, MultiLabel, Probe, TokenTagging
from adapters.target import Target as Target
from backbone.errors import InputError
from trainers.policy import Retrain

LadderRung = Literal["probe", "probe_all", "top", "all"]  # of the plan auto, cheapest first


def data_root() -> str:
    """Folder of the shared public data sets: `TOPGRAFT_DATA`, default `../shared/data`."""
    return os.environ.get("TOPGRAFT_DATA", str(Path("..") / "shared" / "data"))


@dataclass(frozen=True)
class Data:
    """Where the rows are and how to read them.

    A split is one or more files of one format, concatenated, or `tfds:NAME[/CONFIG][:SPLIT]`. For
    head.kind=token_tagging the columns hold words and BIO tags, as lists or as text with spaces between.
    Rows of `train` fall into train, development and gate by a hash of their normalised text, so no
    row changes sides when the data grows (see `trainers.splits`).
    """

    train: tuple[str, ...] = ()  # files, or one tfds: name
    dev: tuple[str, ...] = ()  # empty: dev_fraction of train, by hash
    test: tuple[str, ...] = ()  # empty: no test metrics
    format: Literal[
        "auto",
        "csv",
        "tsv",
        "tsv_quoted",
        "jsonl",
        "parquet",
        "label_text",
        "parallel",
        "bio",
        "json_lists",
        "image_folder",
        "idx",
    ] = "auto"
    # auto: by suffix (.csv .tsv .jsonl .parquet .bio .conll); tsv takes quotes literally, tsv_quoted as CSV does;
    # label_text: one row a line, "LABEL TEXT"; parallel: (texts file, labels file), a line each;
    # bio: a word and its tag a line, an empty line between sentences; json_lists: FILE#LIST, a JSON object whose
    # field LIST holds [text, label] lists; image_folder: a folder with a subfolder of images per class; idx:
    # (images file, labels file) as MNIST's
    text: str = "text"  # column of the text
    text_pair: str = ""  # column of the second text, for heads on pairs (head.pair); "" = none
    label: str = "label"  # column of the label (multi_label: a list, or text split at label_separator)
    image: str = ""  # column of encoded images in Parquet or tfds:, instead of text
    columns: tuple[str, ...] = ()  # names of the columns of a CSV or TSV without a header
    encoding: str = "utf-8"  # of text formats; invalid bytes are an error that names the line
    label_names: tuple[str, ...] = ()  # when the column holds 0..C-1: the names, in order
    keep_labels: tuple[str, ...] = ()  # only rows with one of these labels are read; empty: all
    label_separator: str = "|"  # between labels of a multi_label column of text
    difficulty: str = ""  # column with a number, for curriculum.difficulty=column
    train_fraction: float = 1.0  # share of the train rows to use, chosen by hash
    dev_fraction: float = 0.1  # share of train held out for development, by hash; 0 = none
    gate_fraction: float = 0.0  # share of train held out for promotion gates, by hash
    max_tokens: int = 128  # longer inputs are cut, counted and reported

    def __post_init__(self) -> None:
        for name in ("train", "dev", "test", "columns", "label_names", "keep_labels"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, (value,) if value else ())
        if not 0 < self.train_fraction <= 1:
            raise InputError(f"train_fraction: must lie in (0, 1], got {self.train_fraction}")
        if self.dev_fraction < 0 or self.gate_fraction < 0 or self.dev_fraction + self.gate_fraction >= 1:
            raise InputError("dev_fraction: together with gate_fraction must be at least 0 and below 1")
        if self.max_tokens < 3:
            raise InputError(f"max_tokens: must be at least 3 (two special tokens and a word), got {self.max_tokens}")
        if self.format in ("parallel", "idx"):
            for name in ("train", "dev", "test"):
                if len(getattr(self, name)) not in (0, 2):
                    first = "texts" if self.format == "parallel" else "images"
                    raise InputError(f"{name}: format {self.format} needs two files, {first} then labels")
        if self.of_images and (self.difficulty or (self.image and self.format not in ("auto", "parquet"))):
            raise InputError("image: a column of images is in Parquet or tfds:, and has no difficulty beside it")

    @property
    def of_images(self) -> bool:
        """Whether the rows are images."""
        return bool(self.image) or self.format in ("image_folder", "idx")


@dataclass(frozen=True)
class Optimizer:
    """AdamW on the live tree, with warm-up, decay, accumulation and clipping (optax)."""

    learning_rate: float = 1e-3  # peak
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after warm-up, to zero
    warmup_fraction: float = 0.0  # share of all optimiser steps
    weight_decay: float = 0.0  # decoupled; on matrices only
    clip_norm: float = 0.0  # global norm of live gradients; 0 = no clipping
    accumulate: int = 1  # micro-batches per optimiser step

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"learning_rate: must be a positive number, got {self.learning_rate}")
        if not 0 <= self.warmup_fraction < 1:
            raise InputError(f"warmup_fraction: must be at least 0 and below 1, got {self.warmup_fraction}")
        if self.weight_decay < 0 or self.clip_norm < 0:
            raise InputError("weight_decay: neither this nor clip_norm may be negative")
        if self.accumulate < 1:
            raise InputError(f"accumulate: must be at least 1, got {self.accumulate}")


@dataclass(frozen=True)
class Stage:
    """One stage of a freeze plan: which blocks are live, and until when."""

    blocks: str = ""  # live blocks, slice notation without an end: "" all, "4:" from block 4, "none" the head only
    until_epoch: float = 0.0  # the stage ends here, counted from the start of the run; 0 = at the end of the run
    until_step: int = 0  # the same in optimiser steps; 0 = not used

    def __post_init__(self) -> None:
        if self.blocks not in ("", "none") and not re.fullmatch(r"-?\d+:", self.blocks):
            raise InputError(
                f"blocks: {self.blocks!r} must be '' (all), 'none' or a slice without an end such as '4:'; a gap "
                "below a live block saves nothing, since gradients pass through it"
            )
        if self.until_epoch < 0 or self.until_step < 0 or (self.until_epoch and self.until_step):
            raise InputError("until_epoch: one of until_epoch and until_step, neither negative")


SCHEDULE = re.compile(r"(all|gradient_ratio|auto|top|geometric)(?:\((\d+\.?\d*|\.\d+)\))?")


@dataclass(frozen=True)
class Plan:
    """Which blocks are live when, and what is cached below them.

    `stages` is a tuple of `Stage`, or a schedule by name: `all`; `top(k)`, the top k blocks on a cached
    boundary; `geometric(a)`, ceil(L (1 - (1-a)^e)) blocks frozen in epoch e (PipeTransformer, He et al.
    2021); `gradient_ratio`, at each epoch's end the blocks below the first whose gradient still changes
    more than the median block's (AutoFreeze, Liu et al. 2021); `auto`, the cheapest rung that is good
    enough (see `trainers.auto`; a probe or a ladder, which never differentiates the backbone, is one rung).
    """

    stages: str | tuple[Stage, ...] = "all"
    cache: Literal["none", "float32", "bfloat16", "int8"] = "float32"  # how states at a boundary are kept
    highest: LadderRung = "all"  # the last rung that auto may try
    cache_gib: float = 8.0  # most that all boundary caches may take on disk

    def __post_init__(self) -> None:
        if isinstance(self.stages, str):
            match = SCHEDULE.fullmatch(self.stages)
            needs = self.stages.startswith(("top", "geometric"))
            if not match or (match[2] is not None) != needs:
                raise InputError(
                    f"stages: {self.stages!r} is none of all, top(k), geometric(a), gradient_ratio, auto; or a list"
                )
            if self.schedule[0] == "geometric" and not 0 < self.schedule[1] < 1:
                raise InputError(f"stages: {self.stages}: a must lie between 0 and 1")
        elif not self.stages:
            raise InputError("stages: at least one stage is needed")
        if not 0 < self.cache_gib < 2**32:
            raise InputError(f"cache_gib: must be positive and below 2^32, got {self.cache_gib:g}")

    @property
    def schedule(self) -> tuple[str, float]:
        """(name, argument) of a schedule by name; ("stages", 0) for explicit ones."""
        if not isinstance(self.stages, str):
            return "stages", 0.0
        match = SCHEDULE.fullmatch(self.stages)
        assert match is not None
        return match[1], float(match[2] or 0)


@dataclass(frozen=True)
class Curriculum:
    """Which train rows are eligible when. An epoch is as many drawn examples as there are train rows.

    Competence c(t), the share of rows by difficulty that is open at time t of `duration`, is
    linear: c0 + (1-c0) t, or root: sqrt(t (1-c0^2) + c0^2) (Platanios et al. 2019, equations 6 and 7).
    """

    difficulty: Literal["none", "length", "rarity", "probe_loss", "column"] = "none"  # none: all rows, always
    pacing: Literal["linear", "root"] = "root"
    start: float = 0.2  # c0, the share that is open at first
    duration: float = 0.5  # share of the run until every row is open
    control: bool = False  # rows in random order of difficulty, same pacing: what any gain must beat
    subset: float = 1.0  # share of the rows drawn in an epoch, another random subset each time (RS2)

    def __post_init__(self) -> None:
        for name in ("start", "duration", "subset"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}: must lie in (0, 1], got {getattr(self, name)}")


@dataclass(frozen=True)
class OutOfScope:
    """A score of how unlike the train rows an input is (see `adapters.scope`); needs development rows.

    It is measured on the bare backbone: blocks between the lowest adapted one and `boundary` run twice in a
    prediction, with the adapter and without.
    """

    false_alarms: float = 0.0  # most of the inputs in scope that may be flagged; 0 = no score
    boundary: int = -1  # whose pooled states are measured, 0..blocks or from the end; -1 the last
    abstain: bool = False  # give no label to what is flagged

    def __post_init__(self) -> None:
        if not 0 <= self.false_alarms < 1:
            raise InputError(f"false_alarms: must be at least 0 and below 1, got {self.false_alarms}")
        if self.abstain and not self.false_alarms:
            raise InputError("abstain: needs false_alarms above 0, the share of inputs that may be flagged in error")


@dataclass(frozen=True)
class EarlyExits:
    """Heads at lower blocks that answer where they are sure (see `adapters.exits`); classification of single inputs.

    The threshold is the loosest that keeps the share of rows that are right in full and wrong early at `extra_error`
    or below, with probability `confidence` over draws of the calibration rows.
    """

    boundaries: tuple[int, ...] = ()  # blocks below each exit, ascending; empty: no exits
    extra_error: float = 0.01  # share of rows, of all that are asked
    confidence: float = 0.9  # of the promise
    share: float = 0.2  # of the train rows, by hash and seed, held out of all that is fitted, to calibrate on

    def __post_init__(self) -> None:
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise InputError(f"boundaries: must ascend, got {self.boundaries}")
        for name in ("extra_error", "confidence", "share"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name}: must lie between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class TrainConfig:
    """One training run: a graft from rows."""

    name: str = "graft"  # of the task; names the output folder
    backbone: str = "minilm"  # backbone folder, or minilm (imported on first use)
    data: Data = field(default_factory=Data)
    adapter: MethodSpec = field(default_factory=Lora)
    extra: tuple[MethodSpec, ...] = ()  # methods beside `adapter` in the same graft, in the order they act
    head: HeadSpec = field(default_factory=Classification)
    optimizer: Optimizer = field(default_factory=Optimizer)
    plan: Plan = field(default_factory=Plan)
    target: Target = field(default_factory=Target)
    curriculum: Curriculum = field(default_factory=Curriculum)
    retrain: Retrain = field(default_factory=Retrain)
    out_of_scope: OutOfScope = field(default_factory=OutOfScope)
    exits: EarlyExits = field(default_factory=EarlyExits)
    validate: tuple[Literal["bfloat16"], ...] = ()  # cheaper variants to score on the development rows, for serving
    head_start: Literal["shrunk_probe", "probe", "zero"] = "shrunk_probe"
    # what adapters start from: a fitted probe with small weights, the best one, or a zero head; auto: always the first
    epochs: float = 3.0  # passes over the train rows
    batch_size: int = 32  # rows per micro-batch
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of activations and products
    remat: bool = False  # recompute each block in the backward pass instead of storing it
    seed: int = 0  # of initialisation, order and dropout
    select: Literal["best", "last"] = "best"  # parameters kept: best development epoch, or the last
    patience: int = 0  # epochs without a better development score before stopping; 0 = never
    metric: Literal["accuracy", "macro_f1", "matthews", "average_precision", "pearson", "spearman", "entity_f1"] = (
        "accuracy"  # decides best and patience; one of the head's
    )
    log_every: int = 20  # micro-batches between logged scalars; also at each epoch's end
    checkpoint_seconds: float = 120.0  # between asynchronous checkpoints; also at each epoch's end
    input_threads: int = 1  # threads that assemble batches ahead of the device

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name: {self.name!r} must be a plain folder name")
        if not (1e-6 <= self.epochs < 1e6):
            raise InputError(f"epochs: must be positive, at least 1e-6 and below 1e6, got {self.epochs}")
        for name in ("batch_size", "log_every", "input_threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: must lie in 0..{2**32 - 1}, got {self.seed}")
        alone = [spec.method for spec in self.methods if isinstance(spec, (Probe, Ladder))]
        if self.extra and alone:
            raise InputError(f"extra: {alone[0]} reads hidden states and stands alone, as `adapter` without `extra`")
        if self.curriculum.difficulty == "column" and not self.data.difficulty:
            raise InputError("curriculum.difficulty: column needs data.difficulty, the name of the column")
        if self.patience < 0 or self.checkpoint_seconds < 0:
            raise InputError("patience: neither this nor checkpoint_seconds may be negative")
        self._check_head()

    def _check_head(self) -> None:
        """What the head and the rest of the config must agree on."""
        head = self.head
        if self.metric not in head.metrics:
            known = ", ".join(head.metrics)
            raise InputError(f"metric: {self.metric!r} is no metric of head.kind={head.kind}; one of {known}")
        if self.data.format == "bio" and not isinstance(head, TokenTagging):
            raise InputError("data.format: bio holds tags of words; it needs head.kind=token_tagging")
        require_pair(self.data, head)
        if self.out_of_scope.false_alarms and not (
            isinstance(head, (Classification, MultiLabel)) and head.pair == "none"
        ):
            raise InputError(
                "out_of_scope: measures the distance to classes of single inputs; it needs head.kind=classification or "
                f"multi_label and head.pair=none, got {head.kind} and {head.pair}"
            )
        if self.exits.boundaries and not (isinstance(head, Classification) and head.pair == "none"):
            raise InputError(
                "exits.boundaries: an exit is a classifier of single inputs; it needs head.kind=classification and "
                f"head.pair=none, got {head.kind} and {head.pair}"
            )
        if head.pooling == "attention" and isinstance(self.adapter, Probe):
            raise InputError(
                "head.pooling: attention is learned by gradient, a probe is fitted to fixed features; use another "
                "pooling, or another adapter.method"
            )
        if isinstance(head, TokenTagging):
            needs = {"plan.stages": "auto", "curriculum.difficulty": "probe_loss"}
            found = {"plan.stages": self.plan.stages, "curriculum.difficulty": self.curriculum.difficulty}
            for name, value in needs.items():
                if found[name] == value:
                    raise InputError(
                        f"{name}: {value} fits probes to one vector per row; head.kind=token_tagging has one per "
                        f"word: name another"
                    )

    @property
    def methods(self) -> tuple[MethodSpec, ...]:
        """Every method of the graft."""
        return (self.adapter, *self.extra)


def require_pair(data: Data, head: HeadSpec) -> None:
    """Raises InputError unless the head reads pairs exactly where the data hold them."""
    if head.pair == "none" and data.text_pair:
        raise InputError(
            f"head.pair: data.text_pair={data.text_pair} needs cross, two_tower or cosine, and a head.kind that reads "
            f"pairs (classification, multi_label, regression), got {head.pair}"
        )
    if head.pair != "none" and not data.text_pair:
        raise InputError(f"data.text_pair: head.pair={head.pair} needs the column of the second text")
