"""Plain text to packed sequences of token ids: files, paragraphs, held-out share, packing. Imports no jax.

Paragraphs stand between blank lines. A hash of its words decides whether a paragraph is trained on or held out, as for
rows (`trainers.data.splits`): none changes sides when the corpus grows. A sequence is [CLS], T-2 tokens, [SEP]. Its
tokens are those of consecutive paragraphs with a [SEP] after each, so no position is padding. The tokens after the
last whole sequence are left out.

Shapes: N sequences, T tokens.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbone import texts
from backbone.compression import plain_name
from backbone.errors import InputError
from backbone.preprocessing import TextPreprocessing
from trainers.data.splits import membership

_BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_ROLES = {"mask": ("[MASK]", "<mask>"), "first": ("[CLS]", "<s>"), "last": ("[SEP]", "</s>")}  # spellings of each role


@dataclass(frozen=True)
class Corpus:
    """Plain text. Paragraphs stand between blank lines; a hash of each decides whether it is held out."""

    files: tuple[str, ...] = ()  # UTF-8 files, or folders of *.txt; read in this order
    tokens: int = 128  # tokens of each sequence, special ones included; paragraphs are packed into it
    held_out_fraction: float = 0.02  # share of the paragraphs that is never trained on, by hash

    def __post_init__(self) -> None:
        if isinstance(self.files, str):
            object.__setattr__(self, "files", (self.files,) if self.files else ())
        if self.tokens < 8:
            raise InputError(f"tokens: must be at least 8, got {self.tokens}")
        if not 0 < self.held_out_fraction < 1:
            raise InputError(f"held_out_fraction: must lie between 0 and 1, got {self.held_out_fraction}")


@dataclass(frozen=True)
class Text:
    """The paragraphs of a corpus."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Sequences:
    """A packed corpus, and what an objective must know of the tokenizer."""

    train: np.ndarray  # int32 [N,T]
    held_out: np.ndarray  # int32 [M,T]
    tokens: int  # tokens of the paragraphs in `train`, special ones not counted
    mask_id: int | None  # id of the mask token; None if the tokenizer has none
    special: tuple[int, ...]  # ids that are never predicted: [CLS], [SEP], [PAD]

    @property
    def fingerprint(self) -> str:
        """Returns `sha256:<hex>` of every sequence in order."""
        state = hashlib.sha256()
        for part in (self.train, self.held_out):
            state.update(str(part.shape).encode() + np.ascontiguousarray(part, "<i4").tobytes())
        return "sha256:" + state.hexdigest()

    @property
    def unigram_entropy(self) -> float:
        """Returns the entropy of the held-out tokens, in nats: the loss of the best guess that sees no context."""
        ids = self.held_out[~np.isin(self.held_out, self.special)]
        share = np.bincount(ids) / len(ids)
        return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def read_text(corpus: Corpus) -> Text:
    """Reads every paragraph of the files. Raises InputError naming a file that is absent, empty or not UTF-8."""
    sides: dict[str, list[str]] = {"train": [], "dev": []}
    for path in _files(corpus):
        for paragraph in _paragraphs(path):
            sides[membership(paragraph, corpus.held_out_fraction, 0.0)].append(paragraph)
    return Text(tuple(sides["train"]), tuple(sides["dev"]))


def _files(corpus: Corpus) -> Iterator[Path]:
    if not corpus.files:
        raise InputError("corpus.files: names no file; for example --set corpus.files=texts/")
    for name in corpus.files:
        path = Path(name)
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and plain_name(file).endswith(".txt"))
            if not inside:
                raise InputError(f"corpus.files: {name}: the folder holds no *.txt file, plain or packed")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise InputError(f"corpus.files: {name}: no such file or folder")


def _paragraphs(path: Path) -> Iterator[str]:
    text = texts.read_text(path, remedy="convert the file to UTF-8, or leave it out")
    parts = [words for part in _BLANK.split(text) if (words := " ".join(part.split()))]
    if not parts:
        raise InputError(f"{path}: holds no text; leave it out of corpus.files")
    yield from parts


def pack(text: Text, preprocessing: TextPreprocessing, tokens: int, *, needs_mask: bool) -> Sequences:
    """Packs paragraphs into sequences of `tokens` ids. Raises InputError for a tokenizer without the special tokens."""
    tokenizer = preprocessing.uncut()
    known = {
        role: next((i for name in names if (i := tokenizer.token_to_id(name)) is not None), None)
        for role, names in _ROLES.items()
    }
    for role, number in known.items():
        if number is None and (needs_mask or role != "mask"):
            raise InputError(f"the tokenizer has no {role} token, which the objective needs; take another tokenizer")
    first, last = (int(known[role] or 0) for role in ("first", "last"))

    def packed(paragraphs: Sequence[str]) -> tuple[np.ndarray, int]:
        encoded = tokenizer.encode_batch_fast(list(paragraphs), add_special_tokens=False)
        rows = [[*encoding.ids, last] for encoding in encoded]
        stream = np.array([i for row in rows for i in row], np.int32)
        inner = tokens - 2
        count = len(stream) // inner
        ids = np.full((count, tokens), last, np.int32)
        ids[:, 0] = first
        ids[:, 1:-1] = stream[: count * inner].reshape(count, inner)
        return ids, len(stream) - len(rows)

    train, count = packed(text.train)
    held_out, _ = packed(text.held_out)
    special = tuple(sorted({first, last, preprocessing.fill}))
    return Sequences(train, held_out, count, known["mask"], special)
