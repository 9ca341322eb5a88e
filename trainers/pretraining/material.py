"""What a backbone is trained on: network, preprocessing and objective of a config, from text or from images.

start = start_of(config)
material = read_material(config, workdir, start)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from backbone.encoder import Network
from backbone.errors import InputError
from backbone.files import BACKBONE_FILE, write_durable
from backbone.home import resolve_backbone
from backbone.images import ImagePreprocessing
from backbone.preprocessing import TextPreprocessing
from backbone.spec import EncoderSpec, ImageSpec
from backbone.storage import Backbone, Preprocessing, load_backbone
from trainers.pretraining.config import (
    BackboneConfig,
    MaskedTokens,
    NewBert,
    NewVit,
    SupervisedImages,
    TokenizerFile,
    WordPiece,
)
from trainers.pretraining.corpus import Sequences, Text, pack, read_text, train_wordpiece
from trainers.pretraining.labelled_images import read_labelled
from trainers.pretraining.objectives import MaskedTokenObjective, Objective, SupervisedImageObjective
from trainers.runs.checkpoints import has_checkpoint

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"  # of a new one, in the work folder


@dataclass(frozen=True)
class Material:
    """Everything that is fixed before the first weight."""

    network: Network
    objective: Objective
    preprocessing: Preprocessing
    family: str  # published layout of a new network
    fingerprint: dict[str, str]  # of what is read, for --resume
    labels: tuple[str, ...] = ()  # of the classifier's outputs; masked tokens have none
    train_tokens: int | None = None  # in the training text
    unigram_entropy: float | None = None  # of the held-out tokens, nats


def start_of(config: BackboneConfig) -> Backbone | None:
    """The backbone to go on from; of a run, the one inside. Raises InputError if it reads something else."""
    if not config.start:
        return None
    start = load_backbone(_start_folder(config.start))
    if (start.spec.image is not None) != config.of_images:
        reads, needs = ("text", "images") if config.of_images else ("images", "text")
        raise InputError(
            f"start: {config.start} reads {reads}, and {config.objective.kind} needs a backbone that reads {needs}"
        )
    return start


def _start_folder(start: str) -> Path:
    inside = Path(start) / "backbone"
    return inside if (inside / BACKBONE_FILE).is_file() else resolve_backbone(start)


def read_material(config: BackboneConfig, workdir: Path, start: Backbone | None, *, show: bool = False) -> Material:
    """Reads the text or the images of a run; raises InputError for fewer than one batch of them."""
    return _of_images(config, start, show) if config.of_images else _of_text(config, workdir, start)


def _of_images(config: BackboneConfig, start: Backbone | None, show: bool) -> Material:
    assert isinstance(config.objective, SupervisedImages)
    if start:
        network, preprocessing = start.network, start.preprocessing
    else:
        assert isinstance(config.network, NewVit)
        network, preprocessing = new_vit(config.network)
    assert isinstance(preprocessing, ImagePreprocessing)
    images = read_labelled(config.data, preprocessing, show=show)
    objective = SupervisedImageObjective(config.objective, network, images)
    rows = objective.rows
    if rows["train"] < config.batch_size:
        raise InputError(
            f"data.train: {rows['train']} images to train on, fewer than one batch of {config.batch_size}; add images, "
            f"or lower batch_size"
        )
    log.info("%d images and %d held out, %d labels", rows["train"], rows["held_out"], len(images.labels))
    return Material(network, objective, preprocessing, "vit", {"data": images.fingerprint}, images.labels)


def new_vit(network: NewVit) -> tuple[Network, ImagePreprocessing]:
    """A ViT of these sizes without a pooler, and the preprocessing that goes with it."""
    middle = (0.5,) * network.channels
    image = ImageSpec(network.size, network.patch, mean=middle, std=middle)
    spec = EncoderSpec(
        blocks=network.blocks,
        width=network.width,
        heads=network.heads,
        mlp_width=network.mlp_width,
        vocabulary=0,
        positions=image.tokens,
        segments=0,
        pooler=False,
        norm="pre",
        embedding_norm=False,
        image=image,
    )
    return Network(spec), ImagePreprocessing(image, resize=network.size)


def _of_text(config: BackboneConfig, workdir: Path, start: Backbone | None) -> Material:
    assert isinstance(config.objective, MaskedTokens)
    text = read_text(config.corpus)
    preprocessing = _tokenizer(config, workdir, text, start)
    sequences = pack(text, preprocessing, config.corpus.tokens)
    _require_enough(config, sequences)
    if not start and isinstance(config.tokenizer, WordPiece):
        write_durable(workdir / TOKENIZER, preprocessing.tokenizer_json.encode())
    if start:
        network = start.network
    else:
        assert isinstance(config.network, NewBert)
        network = Network(spec_of_bert(config.network, preprocessing.vocabulary, config.corpus.tokens))
    log.info(
        "%d tokens of text, %d sequences and %d held out; vocabulary %d",
        sequences.tokens, len(sequences.train), len(sequences.held_out), preprocessing.vocabulary,
    )  # fmt: skip
    return Material(
        network,
        MaskedTokenObjective(config.objective, network, sequences),
        preprocessing,
        "bert",
        {"corpus": sequences.fingerprint},
        train_tokens=sequences.tokens,
        unigram_entropy=sequences.unigram_entropy,
    )


def spec_of_bert(network: NewBert, vocabulary: int, tokens: int) -> EncoderSpec:
    """A BERT of these sizes; without a pooler, which masked tokens would not train."""
    return EncoderSpec(
        blocks=network.blocks,
        width=network.width,
        heads=network.heads,
        mlp_width=network.mlp_width,
        vocabulary=vocabulary,
        positions=tokens,
        pooler=False,
    )


def _tokenizer(config: BackboneConfig, workdir: Path, text: Text, start: Backbone | None) -> TextPreprocessing:
    """The run's tokenizer; a run with a checkpoint goes on with the one that it began with."""
    spec, tokens = config.tokenizer, config.corpus.tokens
    own = start.preprocessing if start else None
    assert own is None or isinstance(own, TextPreprocessing)
    if own is not None and tokens > own.max_tokens:
        raise InputError(f"corpus.tokens: {tokens} exceeds {own.max_tokens}, the longest start takes")
    if isinstance(spec, TokenizerFile):
        found = _read_tokenizer(Path(spec.path), own.max_tokens if own else tokens)
        if own is not None and found.preprocessing_id != own.preprocessing_id:
            raise InputError(
                f"tokenizer.path: {spec.path} is another tokenizer than that of {config.start} "
                f"(vocabularies of {found.vocabulary} and {own.vocabulary}): its ids would meet the wrong embeddings; "
                f"set tokenizer=none to take that of start"
            )
        return found
    if own is not None:
        return own
    assert isinstance(spec, WordPiece)
    if has_checkpoint(workdir):
        return _read_tokenizer(workdir / TOKENIZER, tokens)
    return train_wordpiece(spec, text.train, tokens)


def _read_tokenizer(path: Path, max_tokens: int) -> TextPreprocessing:
    try:
        return TextPreprocessing.from_file_text(path.read_text(encoding="utf-8"), max_tokens, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: unreadable: {error}") from error


def _require_enough(config: BackboneConfig, sequences: Sequences) -> None:
    """At least one batch to train on and one sequence to score."""
    if len(sequences.train) < config.batch_size:
        raise InputError(
            f"corpus.files: {sequences.tokens} tokens make {len(sequences.train)} sequences of {config.corpus.tokens}, "
            f"fewer than one batch of {config.batch_size}; add text, or lower batch_size or corpus.tokens"
        )
    if not len(sequences.held_out):
        raise InputError(
            f"corpus.held_out_fraction: {config.corpus.held_out_fraction} of the paragraphs make no whole sequence "
            f"of {config.corpus.tokens} tokens to score; raise it or add text"
        )
