"""The training of a backbone as data: the frozen dataclasses of `topgraft train-backbone`. Imports no jax.

    from trainers.pretraining.config import BackboneConfig, Corpus

    def get_config() -> BackboneConfig:
        return BackboneConfig(name="mine", corpus=Corpus(files=("texts/",)))

A run either makes a new network and a new tokenizer, or starts from a backbone and keeps both of its. The
objective decides what is read: plain text of `corpus`, or the labelled images of `data`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from backbone.errors import InputError
from trainers.config import Data, Optimizer


@dataclass(frozen=True)
class Corpus:
    """Plain text. Paragraphs stand between blank lines; a hash of each decides whether it is held out."""

    files: tuple[str, ...] = ()  # UTF-8 files, or folders of *.txt; read in this order
    tokens: int = 128  # of each sequence, special tokens included; paragraphs are packed into it
    held_out_fraction: float = 0.02  # share of the paragraphs that is never trained on, by hash

    def __post_init__(self) -> None:
        if isinstance(self.files, str):
            object.__setattr__(self, "files", (self.files,) if self.files else ())
        if self.tokens < 8:
            raise InputError(f"tokens: must be at least 8, got {self.tokens}")
        if not 0 < self.held_out_fraction < 1:
            raise InputError(f"held_out_fraction: must lie between 0 and 1, got {self.held_out_fraction}")


@dataclass(frozen=True)
class WordPiece:
    """A new WordPiece vocabulary, trained on the corpus without its held-out paragraphs."""

    kind: ClassVar[str] = "wordpiece"
    vocabulary: int = 8000  # most tokens, special ones included; a small corpus gives fewer
    lowercase: bool = True  # also strips accents, as BERT's uncased models do

    def __post_init__(self) -> None:
        if self.vocabulary < 32:
            raise InputError(f"vocabulary: must be at least 32, got {self.vocabulary}")


@dataclass(frozen=True)
class TokenizerFile:
    """A `tokenizer.json` that exists. With `start` it must be that backbone's own."""

    kind: ClassVar[str] = "file"
    path: str = ""  # of the file

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path: names no tokenizer.json")


TokenizerSpec: TypeAlias = WordPiece | TokenizerFile


@dataclass(frozen=True)
class NewBert:
    """A BERT with fresh weights; vocabulary and longest input come from the tokenizer and the corpus."""

    kind: ClassVar[str] = "bert"
    blocks: int = 4  # L
    width: int = 256  # D
    heads: int = 4  # of attention
    mlp_width: int = 1024  # hidden units of the mlp
    first_weights: Literal["random", "local"] = "random"  # local: heads of block 0 begin at neighbours; for short runs

    def __post_init__(self) -> None:
        _require_sizes(self)
        if self.first_weights == "local" and self.width < 2 * self.heads:
            shared = f"{self.heads} heads share a width of {self.width}"
            raise InputError(f"first_weights: local needs heads of at least 2 dimensions; {shared}")


@dataclass(frozen=True)
class NewVit:
    """A ViT with fresh weights, a class token and no pooler; its preprocessing is made from these fields."""

    kind: ClassVar[str] = "vit"
    size: int = 28  # pixels a side; images are resized to it
    patch: int = 7  # pixels a side of a patch; divides the size
    channels: int = 1  # 1 (grey) or 3 (colour)
    blocks: int = 4  # L
    width: int = 128  # D
    heads: int = 4  # of attention
    mlp_width: int = 256  # hidden units of the mlp

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InputError(f"channels: {self.channels} is not supported; 1 (grey) or 3 (colour) are")
        if self.patch < 1 or self.size < 1 or self.size % self.patch:
            raise InputError(f"patch: an image of {self.size} pixels cannot be cut into patches of {self.patch}")
        _require_sizes(self)


NetworkSpec: TypeAlias = NewBert | NewVit


def _require_sizes(network: NetworkSpec) -> None:
    for name in ("blocks", "width", "heads", "mlp_width"):
        if getattr(network, name) < 1:
            raise InputError(f"{name}: must be at least 1, got {getattr(network, name)}")
    if network.width % network.heads:
        raise InputError(f"heads: {network.heads} does not divide width {network.width}")


@dataclass(frozen=True)
class MaskedTokens:
    """Masked language modelling (Devlin et al. 2018, section 3.1), on a fixed number of tokens of each row.

    Of the chosen tokens `mask` become the mask token, `random` another token, and the rest stay.
    """

    kind: ClassVar[str] = "masked_tokens"
    fraction: float = 0.15  # share of a row's tokens that is predicted
    mask: float = 0.8  # share of the chosen tokens that becomes the mask token
    random: float = 0.1  # share of the chosen tokens that becomes a random token

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise InputError(f"fraction: must lie between 0 and 1, got {self.fraction}")
        if self.mask < 0 or self.random < 0 or self.mask + self.random > 1:
            raise InputError("mask: neither this nor random may be negative, and together at most 1")


@dataclass(frozen=True)
class SupervisedImages:
    """Classification of labelled images by a linear layer on the finished class token (Dosovitskiy et al. 2020).

    Held out are the test rows, or the development rows where `data.test` is empty.
    """

    kind: ClassVar[str] = "supervised_images"
    shift: int = 0  # most pixels by which a training image is moved, either way on both axes; edges are repeated

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise InputError(f"shift: may not be negative, got {self.shift}")


ObjectiveSpec: TypeAlias = MaskedTokens | SupervisedImages


@dataclass(frozen=True)
class BackboneConfig:
    """One run of `topgraft train-backbone`."""

    name: str = "backbone"  # names the output folder
    objective: ObjectiveSpec = field(default_factory=MaskedTokens)
    corpus: Corpus = field(default_factory=Corpus)  # text, for masked_tokens
    data: Data = field(default_factory=Data)  # labelled images, for supervised_images
    start: str = ""  # backbone folder, run of train-backbone, or minilm to go on from; "": fresh weights
    start_head: Literal["fresh", "kept"] = "fresh"  # of the objective; kept: the one beside the run named by start
    network: NetworkSpec | None = field(default_factory=NewBert)  # None: that of start
    tokenizer: TokenizerSpec | None = field(default_factory=WordPiece)  # None: that of start; images have none
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(warmup_fraction=0.06, weight_decay=0.01, clip_norm=1.0)
    )
    steps: int = 5000  # optimiser steps
    batch_size: int = 32  # rows per micro-batch
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of activations and products; weights stay float32
    remat: bool = False  # recompute each block in the backward pass instead of storing it
    seed: int = 0  # of fresh weights, order, masks and shifts
    max_seconds: float = 0.0  # of training in one process; then the run stops, to be resumed; 0 = no limit
    log_every: int = 20  # micro-batches between logged scalars
    evaluate_every: int = 500  # micro-batches between held-out scores; also at the end
    checkpoint_seconds: float = 120.0  # between asynchronous checkpoints; also at the end

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name: {self.name!r} must be a plain folder name")
        for name in ("steps", "batch_size", "log_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: must lie in 0..{2**32 - 1}, got {self.seed}")
        if self.max_seconds < 0 or self.checkpoint_seconds < 0:
            raise InputError("max_seconds: neither this nor checkpoint_seconds may be negative")
        self._check_objective()
        if self.start and self.network is not None:
            raise InputError("network: start brings its own; set network=none")
        if self.start and isinstance(self.tokenizer, WordPiece):
            raise InputError("tokenizer: start brings its own; set tokenizer=none")
        if not self.start:
            for name in ("network",) if self.of_images else ("network", "tokenizer"):
                if getattr(self, name) is None:
                    raise InputError(f"{name}: none needs start, a backbone that brings it")
            if self.start_head == "kept":
                raise InputError("start_head: kept needs start, a run that holds a head")

    @property
    def of_images(self) -> bool:
        """Whether the objective reads images."""
        return isinstance(self.objective, SupervisedImages)

    def _check_objective(self) -> None:
        """What the objective and the rest of the config must agree on."""
        kind, wanted = self.objective.kind, "vit" if self.of_images else "bert"
        if self.network is not None and self.network.kind != wanted:
            raise InputError(f"network: objective={kind} needs network.kind={wanted}, got {self.network.kind}")
        if self.of_images and self.tokenizer is not None:
            raise InputError(f"tokenizer: objective={kind} reads images; set tokenizer=none")
        if self.of_images and self.corpus.files:
            raise InputError(f"corpus.files: objective={kind} reads labelled images; name them in data.train")
        if self.data.train and not self.of_images:
            raise InputError(f"data.train: objective={kind} reads plain text; name it in corpus.files")
        if self.of_images and not self.data.train:
            raise InputError("data.train: names no file; expected labelled images (format idx, image_folder, parquet)")
        if self.of_images and not self.data.of_images:
            raise InputError(
                f"data.format: {self.data.format} holds text; objective={kind} needs idx, image_folder, or "
                f"data.image, the column of encoded images"
            )
