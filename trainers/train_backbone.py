"""The verb `train-backbone`: a config to a backbone folder.

    result = train_backbone(load_as(BackboneConfig, "text_mlm"), Path("runs/text_mlm"))

Reads top to bottom: corpus, tokenizer, network, the loop, the folder. A work folder holds
`config.json`, `tokenizer.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `backbone/`,
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

from backbone.encoder import Network
from backbone.errors import InputError
from backbone.files import write_durable
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.masked_head import load_head, save_head
from backbone.preprocessing import TextPreprocessing
from backbone.records import digest, encode
from backbone.spec import EncoderSpec
from backbone.storage import DESCRIPTION, Backbone, load_backbone, save_backbone
from backbone.trees import Params, count, map_leaves
from metering.window import Cost, cpu_seconds, wall_seconds, window
from trainers.backbone_config import BackboneConfig, TokenizerFile, WordPiece
from trainers.backbone_loop import BackboneTask, fit_backbone
from trainers.checkpoints import Checkpoints
from trainers.corpus import Sequences, Text, pack, read_text, train_wordpiece
from trainers.logs import Scalars
from trainers.objectives import MaskedTokenObjective
from trainers.workdir import RESULT, claim, stored_result, unclaimed_on_error

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
    held_out_loss: float  # nats per predicted token
    unigram_entropy: float  # of the held-out tokens, nats: the loss that needs no context
    gain: float  # unigram_entropy - held_out_loss
    train_tokens: int  # in the training text
    parameters: int  # of the backbone
    skipped: int  # micro-batches whose loss or gradient was not finite
    seconds: float  # wall time since the process started
    cpu_seconds: float  # of this process
    costs: dict[str, Any]  # of each phase of this process
    resumed: bool


def train_backbone(
    config: BackboneConfig, workdir: Path, *, resume: bool = False, show: bool = False
) -> TrainBackboneResult:
    """Trains a backbone in `workdir`; raises InputError for a bad corpus, config or start.

    With `resume` a run that was interrupted, or stopped by `max_seconds`, goes on from its newest checkpoint.
    Same config, corpus and machine: same weights, killed or not.
    """
    use_compilation_cache()
    stored = claim(workdir, encode(config), resume, free=FREE)
    if stored is not None and stored.get("finished"):
        return stored_result(TrainBackboneResult, workdir, stored)
    costs: dict[str, Cost] = {}
    with window("data") as costs["data"], unclaimed_on_error(workdir, resume):
        start = _start(config)
        text = read_text(config.corpus)
        preprocessing = _tokenizer(config, workdir, text, start)
        sequences = pack(text, preprocessing, config.corpus.tokens)
        _require_enough(config, sequences)
    network = start.network if start else Network(_spec(config, preprocessing))
    objective = MaskedTokenObjective(config.objective, network, sequences)
    params = _first_params(config, network, objective, start)
    parameters = count(params["backbone"])
    log.info(
        "%d tokens of text, %d sequences and %d held out; vocabulary %d; %d parameters",
        sequences.tokens, len(sequences.train), len(sequences.held_out), preprocessing.vocabulary, parameters,
    )  # fmt: skip
    task = BackboneTask(config, network, objective)
    identity = {
        "config": digest({**encode(config), **dict.fromkeys(FREE)}),
        "corpus": sequences.fingerprint,
        "preprocessing_id": preprocessing.preprocessing_id,
        "start": start.weights_id if start else "",
    }
    with Checkpoints(workdir / "checkpoints", identity) as checkpoints:
        resumed = checkpoints.notes() is not None
        with window("train") as costs["train"]:
            fitted = fit_backbone(
                task, params, checkpoints, lambda step: Scalars(workdir, step), costs["train"], show=show
            )
    source = {"source": "train-backbone", "name": config.name, "family": start.source["family"] if start else "bert"}
    if start:
        source["start"] = start.weights_id
    record = save_backbone(
        workdir / "backbone", network.spec, fitted.params["backbone"], preprocessing, source, replace=resume
    )
    save_head(workdir, fitted.params["head"], record.weights_id)
    result = TrainBackboneResult(
        backbone=str(workdir / "backbone"),
        weights_id=record.weights_id,
        preprocessing_id=record.preprocessing_id,
        finished=fitted.steps == task.total_steps,
        steps=fitted.steps,
        of_steps=task.total_steps,
        held_out_loss=fitted.held_out_loss,
        unigram_entropy=sequences.unigram_entropy,
        gain=sequences.unigram_entropy - fitted.held_out_loss,
        train_tokens=sequences.tokens,
        parameters=parameters,
        skipped=fitted.skipped,
        seconds=round(wall_seconds(), 3),
        cpu_seconds=round(cpu_seconds(), 3),
        costs={name: cost.asdict() for name, cost in costs.items()},
        resumed=resumed,
    )
    write_durable(workdir / RESULT, json.dumps(asdict(result), indent=1).encode())
    return result


def _start(config: BackboneConfig) -> Backbone | None:
    """The backbone to go on from; of a run, the one inside."""
    if not config.start:
        return None
    start = load_backbone(_start_folder(config.start))
    if start.spec.image is not None:
        raise InputError(f"start: {config.start} reads images, and masked_tokens needs a backbone that reads text")
    return start


def _start_folder(start: str) -> Path:
    inside = Path(start) / "backbone"
    return inside if (inside / DESCRIPTION).is_file() else resolve_backbone(start)


def _tokenizer(config: BackboneConfig, workdir: Path, text: Text, start: Backbone | None) -> TextPreprocessing:
    """The run's tokenizer; a new one is kept in the work folder, so that a resumed run reads the same."""
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
    kept = workdir / "tokenizer.json"
    if not kept.is_file():
        made = train_wordpiece(spec, text.train, tokens)
        write_durable(kept, made.tokenizer_json.encode())
    return _read_tokenizer(kept, tokens)


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


def _spec(config: BackboneConfig, preprocessing: TextPreprocessing) -> EncoderSpec:
    """A new BERT for this tokenizer; without a pooler, which masked tokens would not train."""
    assert config.network is not None
    sizes = encode(config.network)
    return EncoderSpec(**sizes, vocabulary=preprocessing.vocabulary, positions=config.corpus.tokens, pooler=False)


def _first_params(
    config: BackboneConfig, network: Network, objective: MaskedTokenObjective, start: Backbone | None
) -> Params:
    """{"backbone", "head"} before the first step, float32 on the host."""
    weights, head = jax.random.split(jax.random.key(config.seed))
    params = {"backbone": start.params if start else network.init(weights)}
    if config.start_head == "kept":
        assert start is not None
        params["head"] = load_head(start.path.parent, start.spec, start.weights_id)
    else:
        params["head"] = objective.init(head)
    log.info("weights: %s; head: %s", config.start or "fresh", config.start_head)
    return map_leaves(lambda leaf: np.asarray(leaf, np.float32), params)
