"""The base of objectives that read plain text: the corpus, its tokenizer, and rows without padding. Imports no jax."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from backbone.errors import InputError
from backbone.files import write_durable
from backbone.home import home
from backbone.preprocessing import TextPreprocessing
from trainers.pretraining.corpus import Roles, Sequences, Text, pack, read_text, roles_of, unigram_entropy
from trainers.pretraining.material import Material, first_rows
from trainers.pretraining.objectives.objective import Objective, network_of
from trainers.pretraining.tokenizers.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from backbone.storage import Backbone
    from trainers.pretraining.config import BackboneConfig

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"  # file of a learned tokenizer in the work folder


class TextObjective(Objective):
    """An objective on the packed sequences of `corpus`: `splits` hold "ids" int32 [N,T]."""

    reads = "text"
    streams = True
    needs_mask: ClassVar[bool] = False  # the tokenizer must have a mask token

    def check(self, config: BackboneConfig) -> None:
        if config.data.train:
            raise InputError(f"data.train: objective={self.tag} reads plain text; name it in corpus.files")
        if config.tokenizer is None and not config.start:
            raise InputError("tokenizer: none needs start, a backbone that brings it")

    def read(self, config: BackboneConfig, workdir: Path, start: Backbone | None, *, show: bool = False) -> Material:
        text = _text(config)
        preprocessing = _tokenizer(config, workdir, text, start)
        roles = roles_of(preprocessing, needs_mask=self.needs_mask)
        sequences = _sequences(config, text, preprocessing, roles)
        _require_enough(config, sequences)
        if config.tokenizer is not None and config.tokenizer.learned:
            write_durable(workdir / TOKENIZER, preprocessing.tokenizer_json.encode())
        held_out = first_rows(sequences.held_out, config.max_held_out)
        log.info(
            "%d tokens of text, %d sequences and %d held out; vocabulary %d",
            sequences.tokens, len(sequences.train), len(held_out), preprocessing.vocabulary,
        )  # fmt: skip
        network, family = network_of(config, start, preprocessing)
        return Material(
            network=network,
            preprocessing=preprocessing,
            family=family,
            fingerprint={"corpus": sequences.fingerprint},
            splits={"train": {"ids": sequences.train}, "held_out": {"ids": held_out}},
            special=roles.special,
            mask_id=roles.mask,
            train_tokens=sequences.tokens,
            unigram_entropy=unigram_entropy(held_out, roles.special),
        )


def _text(config: BackboneConfig) -> Text:
    """Returns the paragraphs of the corpus, in memory or read when they are needed."""
    from trainers.pretraining.token_stream import streamed_text

    return streamed_text(config.corpus) if config.stream else read_text(config.corpus)


def _sequences(config: BackboneConfig, text: Text, preprocessing: TextPreprocessing, roles: Roles) -> Sequences:
    """Returns the packed corpus, in memory or in the home."""
    from trainers.pretraining.token_stream import tokenised

    if config.stream:
        return tokenised(config.corpus, preprocessing, roles, home() / "streams")
    return pack(text, preprocessing, roles, config.corpus.tokens)


def _tokenizer(config: BackboneConfig, workdir: Path, text: Text, start: Backbone | None) -> TextPreprocessing:
    """Returns the run's tokenizer. A run with a checkpoint continues with the one that it learned."""
    from trainers.runs.checkpoints import has_checkpoint

    source, tokens = config.tokenizer, config.corpus.tokens
    if start is None:
        assert source is not None, "`check` refuses it without a start"
        if source.learned and has_checkpoint(workdir):
            return read_tokenizer(workdir / TOKENIZER, tokens)
        return source.tokenizer(text.train, tokens)
    of_start = start.preprocessing
    assert isinstance(of_start, TextPreprocessing), "a start reads what the objective reads"
    if tokens > of_start.max_tokens:
        raise InputError(f"corpus.tokens: {tokens} exceeds {of_start.max_tokens}, the longest start takes")
    if source is None:
        return of_start
    given = source.tokenizer(text.train, of_start.max_tokens)
    if given.preprocessing_id != of_start.preprocessing_id:
        raise InputError(
            f"tokenizer: it is another tokenizer than that of {config.start} "
            f"(vocabularies of {given.vocabulary} and {of_start.vocabulary}): its ids would meet the wrong embeddings; "
            f"set tokenizer=none to take that of start"
        )
    return given


def _require_enough(config: BackboneConfig, sequences: Sequences) -> None:
    """Raises InputError unless there are one batch to train on and one sequence to score."""
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
