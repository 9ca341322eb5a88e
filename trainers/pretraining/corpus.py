"""Plain text to packed sequences of token ids: files, paragraphs, held-out share, packing. Imports no jax.

Paragraphs stand between blank lines (`trainers.pretraining.shards`). A hash of its words decides whether a paragraph
is trained on or held out, as for rows (`trainers.data.splits`): none changes sides when the corpus grows. A sequence is
[CLS], T-2 tokens, [SEP]. Its tokens are those of consecutive paragraphs with a [SEP] after each, so no position is
padding. The tokens after the last whole sequence are left out.

Shapes: N sequences, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backbone import texts
from backbone.errors import InputError
from backbone.preprocessing import TextPreprocessing
from backbone.records import newer
from backbone.remote import local
from trainers.data.splits import membership
from trainers.pretraining.material import Rows
from trainers.pretraining.shards import REMEDY, SUFFIXES, is_text, paragraphs_of, suffix_of, units

ROWS = 4096  # rows that are counted at once
_ROLES = {"mask": ("[MASK]", "<mask>"), "first": ("[CLS]", "<s>"), "last": ("[SEP]", "</s>")}  # spellings of each role


@dataclass(frozen=True)
class Corpus:
    """Plain text. Paragraphs stand between blank lines; a hash of each decides whether it is held out."""

    files: tuple[str, ...] = ()  # shards, or folders of *.txt, *.parquet or *.array_record; read in this order
    tokens: int = 128  # tokens of each sequence, special ones included; paragraphs are packed into it
    held_out_fraction: float = 0.02  # share of the paragraphs that is never trained on, by hash
    column: str = field(default="text", metadata=newer())  # column of the texts in Parquet files

    def __post_init__(self) -> None:
        if isinstance(self.files, str):
            object.__setattr__(self, "files", (self.files,) if self.files else ())
        if self.tokens < 8:
            raise InputError(f"tokens: must be at least 8, got {self.tokens}")
        if not 0 < self.held_out_fraction < 1:
            raise InputError(f"held_out_fraction: must lie between 0 and 1, got {self.held_out_fraction}")


@dataclass(frozen=True)
class Text:
    """The paragraphs of a corpus; each side can be read several times."""

    train: Iterable[str]
    held_out: Iterable[str]


@dataclass(frozen=True)
class Roles:
    """The ids of a tokenizer's special tokens."""

    first: int  # id of [CLS] or <s>
    last: int  # id of [SEP] or </s>
    mask: int | None  # id of the mask token; None if the tokenizer has none
    special: tuple[int, ...]  # ids that are never predicted: [CLS], [SEP], [PAD]


@dataclass(frozen=True)
class Sequences:
    """A packed corpus, and what an objective must know of the tokenizer."""

    train: Rows  # int32 [N,T]
    held_out: Rows  # int32 [M,T]
    tokens: int  # tokens of the paragraphs in `train`, special ones not counted
    fingerprint: str  # `sha256:<hex>`; equal ones have equal sequences in the same order


def read_text(corpus: Corpus) -> Text:
    """Reads every paragraph of the files. Raises InputError naming a file that is absent, empty or not UTF-8."""
    sides: dict[str, list[str]] = {"train": [], "dev": []}
    for path in files_of(corpus):
        for paragraph in _paragraphs(path, corpus.column):
            sides[membership(paragraph, corpus.held_out_fraction, 0.0)].append(paragraph)
    return Text(tuple(sides["train"]), tuple(sides["dev"]))


def files_of(corpus: Corpus) -> Iterator[Path]:
    """Yields the shards in the order in which they are read; raises InputError naming what is absent or empty."""
    if not corpus.files:
        raise InputError("corpus.files: names no file; for example --set corpus.files=texts/")
    for name in corpus.files:
        path = local(name)
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and suffix_of(file))
            kind = next((suffix for suffix in SUFFIXES if any(suffix_of(file) == suffix for file in inside)), "")
            if not kind:
                raise InputError(
                    f"corpus.files: {name}: the folder holds no {', '.join('*' + suffix for suffix in SUFFIXES)}, "
                    "plain or packed"
                )
            yield from (file for file in inside if suffix_of(file) == kind)
        elif path.is_file():
            yield path
        else:
            raise InputError(f"corpus.files: {name}: no such file or folder")


def _paragraphs(path: Path, column: str) -> Iterator[str]:
    if is_text(path):
        parts = paragraphs_of(texts.read_text(path, remedy=REMEDY))
    else:
        parts = [paragraph for _, paragraphs in units(path, column) for paragraph in paragraphs]
    if not parts:
        raise InputError(f"{path}: holds no text; leave it out of corpus.files")
    yield from parts


def roles_of(preprocessing: TextPreprocessing, *, needs_mask: bool) -> Roles:
    """Returns the ids of the special tokens; raises InputError for a tokenizer that lacks one that is needed."""
    tokenizer = preprocessing.uncut()
    known = {
        role: next((i for name in names if (i := tokenizer.token_to_id(name)) is not None), None)
        for role, names in _ROLES.items()
    }
    for role, number in known.items():
        if number is None and (needs_mask or role != "mask"):
            raise InputError(f"the tokenizer has no {role} token, which the objective needs; take another tokenizer")
    first, last = (int(known[role] or 0) for role in ("first", "last"))
    return Roles(first, last, known["mask"], tuple(sorted({first, last, preprocessing.fill})))


class Packer:
    """Packs paragraphs that come in parts into sequences; what does not fill one waits for the next part."""

    def __init__(self, preprocessing: TextPreprocessing, roles: Roles, tokens: int, carry: Sequence[int] = ()):
        self._tokenizer, self._roles, self._tokens = preprocessing.uncut(), roles, tokens
        self.carry = np.array(carry, np.int32)  # ids that wait, fewer than a sequence holds
        self.count = 0  # tokens of all paragraphs so far, special ones not counted

    def pack(self, paragraphs: Sequence[str]) -> np.ndarray:
        """Returns the whole sequences int32 [N,T] after some more paragraphs."""
        encoded = self._tokenizer.encode_batch_fast(list(paragraphs), add_special_tokens=False)
        last, inner = self._roles.last, self._tokens - 2
        stream = np.array([i for encoding in encoded for i in (*encoding.ids, last)], np.int32)
        self.count += len(stream) - len(encoded)
        stream = np.concatenate([self.carry, stream])
        count = len(stream) // inner
        ids = np.full((count, self._tokens), last, np.int32)
        ids[:, 0] = self._roles.first
        ids[:, 1:-1] = stream[: count * inner].reshape(count, inner)
        self.carry = stream[count * inner :]
        return ids


def pack(text: Text, preprocessing: TextPreprocessing, roles: Roles, tokens: int) -> Sequences:
    """Packs paragraphs into sequences of `tokens` ids."""
    packers = [Packer(preprocessing, roles, tokens) for _ in range(2)]
    train, held_out = (
        packer.pack(list(side)) for packer, side in zip(packers, (text.train, text.held_out), strict=True)
    )
    state = hashlib.sha256()
    for part in (train, held_out):
        state.update(str(part.shape).encode() + np.ascontiguousarray(part, "<i4").tobytes())
    return Sequences(train, held_out, packers[0].count, "sha256:" + state.hexdigest())


def unigram_entropy(rows: Rows, special: Sequence[int]) -> float:
    """Returns the entropy of the tokens of rows, in nats: the loss of the best guess that sees no context."""
    counts = np.zeros(0, np.int64)
    for first in range(0, len(rows), ROWS):
        ids = rows[np.arange(first, min(first + ROWS, len(rows)))]
        part = np.bincount(ids[~np.isin(ids, special)])
        longer = np.zeros(max(len(counts), len(part)), np.int64)
        longer[: len(counts)] += counts
        longer[: len(part)] += part
        counts = longer
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
