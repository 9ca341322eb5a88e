"""Plain text to packed sequences of token ids: files, paragraphs, held-out share, tokenizer, packing.

Paragraphs stand between blank lines and fall to training or to the held-out text by a hash of their
words, as rows do (`trainers.data.splits`): none changes sides when the corpus grows. A sequence is [CLS], T-2
tokens, [SEP]; the tokens are those of consecutive paragraphs with a [SEP] after each, so no position is
padding. The tokens after the last whole sequence are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from backbone.errors import InputError
from backbone.preprocessing import TextPreprocessing
from trainers.data.splits import membership
from trainers.pretraining.config import Corpus, WordPiece

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RARE = 5  # characters seen less often get no token: words with them are [UNK]
_BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")


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
    tokens: int  # of the paragraphs in `train`, special ones not counted
    mask_id: int  # of the mask token
    special: tuple[int, ...]  # ids that are never predicted: [CLS], [SEP], [PAD]

    @property
    def fingerprint(self) -> str:
        """`sha256:<hex>` of every sequence in order."""
        state = hashlib.sha256()
        for part in (self.train, self.held_out):
            state.update(str(part.shape).encode() + np.ascontiguousarray(part, "<i4").tobytes())
        return "sha256:" + state.hexdigest()

    @property
    def unigram_entropy(self) -> float:
        """Of the held-out tokens, in nats: the loss of the best guess that sees no context."""
        ids = self.held_out[~np.isin(self.held_out, self.special)]
        share = np.bincount(ids) / len(ids)
        return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def read_text(corpus: Corpus) -> Text:
    """Every paragraph of the files; raises InputError naming a file that is absent, empty or not UTF-8."""
    found: dict[str, list[str]] = {"train": [], "dev": []}
    for path in _files(corpus):
        for paragraph in _paragraphs(path):
            found[membership(paragraph, corpus.held_out_fraction, 0.0)].append(paragraph)
    return Text(tuple(found["train"]), tuple(found["dev"]))


def _files(corpus: Corpus) -> Iterator[Path]:
    if not corpus.files:
        raise InputError("corpus.files: names no file; for example --set corpus.files=texts/")
    for name in corpus.files:
        path = Path(name)
        if path.is_dir():
            inside = sorted(path.glob("*.txt"))
            if not inside:
                raise InputError(f"corpus.files: {name}: the folder holds no *.txt file")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise InputError(f"corpus.files: {name}: no such file or folder")


def _paragraphs(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start}: not UTF-8 ({error.reason}); convert the file or leave it out"
        ) from error
    parts = [words for part in _BLANK.split(text) if (words := " ".join(part.split()))]
    if not parts:
        raise InputError(f"{path}: holds no text; leave it out of corpus.files")
    yield from parts


def train_wordpiece(spec: WordPiece, paragraphs: Sequence[str], max_tokens: int) -> TextPreprocessing:
    """A WordPiece vocabulary of the paragraphs. The same paragraphs give the same vocabulary.

    The library numbers continuations (`##a`) in the order of a hash map, and ties between merges are
    decided by number; naming them beforehand, in order, is what makes its result repeatable.
    """
    normaliser = normalizers.BertNormalizer(lowercase=spec.lowercase)
    seen = Counter(letter for text in paragraphs for letter in normaliser.normalize_str(text))
    letters = sorted(letter for letter, count in seen.items() if count >= RARE and letter != " ")
    continuations = [f"##{letter}" for letter in letters]
    if len(SPECIAL) + 2 * len(letters) > spec.vocabulary:
        raise InputError(
            f"tokenizer.vocabulary: the corpus has {len(letters)} characters, which alone take "
            f"{len(SPECIAL) + 2 * len(letters)} tokens, got {spec.vocabulary}"
        )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normaliser, pre_tokenizers.BertPreTokenizer()
    learner.train_from_iterator(
        paragraphs,
        trainers.WordPieceTrainer(
            vocab_size=spec.vocabulary,
            special_tokens=[*SPECIAL, *continuations],
            initial_alphabet=letters,
            limit_alphabet=len(letters),
            show_progress=False,
        ),
    )
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normaliser, pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    number = tokenizer.get_vocab()
    last, first = (("[SEP]", number["[SEP]"]), ("[CLS]", number["[CLS]"]))
    tokenizer.post_processor = processors.BertProcessing(last, first)
    return TextPreprocessing.from_file_text(tokenizer.to_str(), max_tokens, "the new WordPiece")


def pack(text: Text, preprocessing: TextPreprocessing, tokens: int) -> Sequences:
    """Sequences of `tokens` ids; raises InputError where the tokenizer has no special tokens of the kind needed."""
    tokenizer = Tokenizer.from_str(preprocessing.tokenizer_json)
    known = {
        role: next((i for name in names if (i := tokenizer.token_to_id(name)) is not None), None)
        for role, names in (("mask", ("[MASK]", "<mask>")), ("first", ("[CLS]", "<s>")), ("last", ("[SEP]", "</s>")))
    }
    for role, number in known.items():
        if number is None:
            raise InputError(f"the tokenizer has no {role} token, which masked_tokens needs; take another tokenizer")
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
    return Sequences(train, held_out, count, int(known["mask"] or 0), special)
