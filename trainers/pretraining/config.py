"""The training of a backbone as data: the frozen dataclasses of `topgraft train-backbone`. Imports no jax.

    from trainers.pretraining.config import BackboneConfig, Corpus

    def get_config() -> BackboneConfig:
        return BackboneConfig(name="mine", corpus=Corpus(files=("texts/",)))

A run either makes a new network and a new tokenizer, or starts from a backbone and keeps both of its. The
objective decides what is read: plain text of `corpus`, or the labelled images of `data`. Objectives, networks and
tokenizers are one file each in the folders of these names; a config script may define its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backbone.errors import InputError
from backbone.meshes.mesh import Mesh, Rule
from backbone.records import newer
from backbone.variants.registered import variants
from trainers.config import Data, Optimizer
from trainers.pretraining.corpus import Corpus
from trainers.pretraining.networks import NewNetwork
from trainers.pretraining.networks.bert import NewBert
from trainers.pretraining.networks.vit import NewVit
from trainers.pretraining.objectives import Objective
from trainers.pretraining.objectives.distil import Distil, DistilImages
from trainers.pretraining.objectives.images import ImageObjective
from trainers.pretraining.objectives.masked_tokens import MaskedTokens
from trainers.pretraining.objectives.supervised_images import SupervisedImages
from trainers.pretraining.objectives.text import TextObjective
from trainers.pretraining.tokenizers import TokenizerSource
from trainers.pretraining.tokenizers.file import TokenizerFile
from trainers.pretraining.tokenizers.wordpiece import WordPiece

__all__ = [
    "BackboneConfig",
    "Corpus",
    "Data",
    "Distil",
    "DistilImages",
    "ImageObjective",
    "MaskedTokens",
    "Mesh",
    "NewBert",
    "NewNetwork",
    "NewVit",
    "Objective",
    "Optimizer",
    "Rule",
    "SupervisedImages",
    "TextObjective",
    "TokenizerFile",
    "TokenizerSource",
    "WordPiece",
]


@dataclass(frozen=True)
class BackboneConfig:
    """One run of `topgraft train-backbone`."""

    name: str = "backbone"  # name of the output folder
    objective: Objective = field(default_factory=MaskedTokens)
    corpus: Corpus = field(default_factory=Corpus)  # plain text, for an objective that reads text
    data: Data = field(default_factory=Data)  # labelled images, for an objective that reads images
    start: str = ""  # backbone folder, run of train-backbone, or minilm to continue from; "": fresh weights
    start_head: Literal["fresh", "kept"] = "fresh"  # the objective's head; kept: the one beside the run named by start
    network: NewNetwork | None = field(default_factory=NewBert)  # None: that of start
    tokenizer: TokenizerSource | None = field(default_factory=WordPiece)  # None: that of start; images have none
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(warmup_fraction=0.06, weight_decay=0.01, clip_norm=1.0)
    )
    mesh: Mesh = field(default_factory=Mesh)  # devices of the run; the default is one
    stream: bool = field(default=False, metadata=newer())  # rows are read from disk when they are needed
    max_held_out: int = field(default=0, metadata=newer())  # held-out rows that are scored, the first ones; 0: all
    steps: int = 5000  # optimiser steps
    batch_size: int = 32  # rows per micro-batch
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # dtype of activations and products; weights stay float32
    remat: bool = False  # recompute each block in the backward pass instead of storing it
    seed: int = 0  # random seed of fresh weights, order, masks and shifts
    max_seconds: float = 0.0  # training time in one process; then the run stops, to be resumed; 0 = no limit
    log_every: int = 20  # micro-batches between logged scalars
    evaluate_every: int = 500  # micro-batches between held-out scores; also at the end
    checkpoint_seconds: float = 120.0  # seconds between asynchronous checkpoints; also at the end

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name: {self.name!r} must be a plain folder name")
        for name in ("steps", "batch_size", "log_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        self.mesh.check_batch(self.batch_size)
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: must lie in 0..{2**32 - 1}, got {self.seed}")
        if self.max_seconds < 0 or self.checkpoint_seconds < 0:
            raise InputError("max_seconds: neither this nor checkpoint_seconds may be negative")
        if self.max_held_out < 0:
            raise InputError(f"max_held_out: may not be negative, got {self.max_held_out}")
        if self.stream and not self.objective.streams:
            raise InputError(f"stream: objective={self.objective.tag} keeps its rows in memory; set stream=false")
        self._check_network()
        self.objective.check(self)
        if self.start and self.tokenizer is not None and self.tokenizer.learned:
            raise InputError("tokenizer: start brings its own; set tokenizer=none")
        if self.start_head == "kept" and not self.start:
            raise InputError("start_head: kept needs start, a run that holds a head")

    def _check_network(self) -> None:
        """Raises InputError unless either the start or a network of the config reads what the objective reads."""
        if self.network is None:
            if not self.start and not self.objective.brings_network:
                raise InputError("network: none needs start, a backbone that brings it")
            return
        reads = self.objective.reads
        if self.network.reads != reads:
            fitting = " or ".join(tag for tag, network in variants(NewNetwork).items() if network.reads == reads)
            raise InputError(
                f"network: objective={self.objective.tag} needs network.kind={fitting}, got {self.network.tag}"
            )
        if self.start:
            raise InputError("network: start brings its own; set network=none")
