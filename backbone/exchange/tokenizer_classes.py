"""The classes of transformers' tokenizers: what each of them builds from a folder's files.

Three of them take the vocabulary of the files alone and build the rest from `tokenizer_config.json` and their defaults.
`TokenizersBackend` (known as `PreTrainedTokenizerFast` too) keeps `tokenizer.json` as it is.

Source: transformers 5.24, `TokenizersBackend`, `BertTokenizer`, `RobertaTokenizer` and `XLMRobertaTokenizer`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from backbone.errors import InputError
from backbone.exchange.tokenizer_files import (
    CONFIG,
    FILE,
    MERGES,
    SAVE,
    VOCAB_JSON,
    VOCAB_TXT,
    Token,
    TokenizerFiles,
    read_merges,
    read_vocab_json,
    read_vocab_txt,
    str_of,
)

BACKEND = "TokenizersBackend"
ALIASES = {
    "BertTokenizer": "BertTokenizer",
    "DistilBertTokenizer": "BertTokenizer",
    "ElectraTokenizer": "BertTokenizer",
    "MobileBertTokenizer": "BertTokenizer",
    "SqueezeBertTokenizer": "BertTokenizer",
    "ConvBertTokenizer": "BertTokenizer",
    "LayoutLMTokenizer": "BertTokenizer",
    "LxmertTokenizer": "BertTokenizer",
    "RobertaTokenizer": "RobertaTokenizer",
    "BartTokenizer": "RobertaTokenizer",
    "LongformerTokenizer": "RobertaTokenizer",
    "LEDTokenizer": "RobertaTokenizer",
    "XLMRobertaTokenizer": "XLMRobertaTokenizer",
    "PreTrainedTokenizer": BACKEND,
    "PythonBackend": BACKEND,
    BACKEND: BACKEND,
}  # the class that stands behind each name in `tokenizer_class`, names without "Fast"


class TokenizerClass:
    """One class of transformers: `TokenizersBackend` itself, which keeps the tokenizer.json."""

    name: ClassVar[str] = BACKEND
    model: ClassVar[str] = ""  # model that it builds; "": the one of the file
    defaults: ClassVar[Mapping[str, str]] = {}  # special tokens where the files name none
    needed: ClassVar[tuple[str, ...]] = ()  # roles without which its template cannot be made

    def start(self, files: TokenizerFiles, roles: Mapping[str, Token]) -> Tokenizer:
        """Returns the tokenizer before special tokens are added."""
        if files.file is None:
            raise InputError(f"{files.folder / FILE}: missing; {SAVE}")
        return Tokenizer.from_str(json.dumps(files.file))

    def finish(self, tokenizer: Tokenizer, files: TokenizerFiles, names: Mapping[str, str]) -> None:
        """Sets the template of special tokens around a text; `names` are the tokens by role."""


class Bert(TokenizerClass):
    """`BertTokenizer`: words of letters or of single signs, cut by WordPiece."""

    name = "BertTokenizer"
    model = "WordPiece"
    defaults: ClassVar[Mapping[str, str]] = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    needed = ("unk_token", "cls_token", "sep_token")

    def start(self, files: TokenizerFiles, roles: Mapping[str, Token]) -> Tokenizer:
        strip = files.settings.get("strip_accents")
        if strip is not None:
            strip = files.flag("strip_accents", False)
        if files.file is None:
            _require(files, VOCAB_TXT)
        vocab = read_vocab_txt(files.folder) if files.file is None else _vocab(files, dict)
        unknown = str_of(roles["unk_token"])
        if unknown not in vocab:
            raise InputError(f"{files.folder}: unk_token: {unknown!r} is not in the vocabulary; name it in {CONFIG}")
        tokenizer = Tokenizer(WordPiece(vocab, unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=files.flag("tokenize_chinese_chars", True),
            strip_accents=strip,
            lowercase=files.flag("do_lower_case", True),
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    def finish(self, tokenizer: Tokenizer, files: TokenizerFiles, names: Mapping[str, str]) -> None:
        first, last = names["cls_token"], names["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first}:0 $A:0 {last}:0",
            pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
            special_tokens=[(name, _id(tokenizer, name)) for name in (first, last)],
        )


class Roberta(TokenizerClass):
    """`RobertaTokenizer`: pairs of bytes merged, a blank being part of the word behind it."""

    name = "RobertaTokenizer"
    model = "BPE"
    defaults: ClassVar[Mapping[str, str]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    needed = ("cls_token", "sep_token")

    def start(self, files: TokenizerFiles, roles: Mapping[str, Token]) -> Tokenizer:
        if files.file is None:
            _require(files, VOCAB_JSON, MERGES)
            vocab, merges = read_vocab_json(files.folder), read_merges(files.folder)
        else:
            vocab, merges = _vocab(files, dict), _merges(files)
        model = BPE(
            vocab=vocab,
            merges=merges,
            dropout=None,
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=files.flag("add_prefix_space", False))
        return tokenizer

    def finish(self, tokenizer: Tokenizer, files: TokenizerFiles, names: Mapping[str, str]) -> None:
        first, last = names["cls_token"], names["sep_token"]
        tokenizer.post_processor = processors.RobertaProcessing(
            (last, _id(tokenizer, last)),
            (first, _id(tokenizer, first)),
            files.flag("trim_offsets", True),
            files.flag("add_prefix_space", False),
        )


class XlmRoberta(TokenizerClass):
    """`XLMRobertaTokenizer`: words between blanks, cut by a unigram model."""

    name = "XLMRobertaTokenizer"
    model = "Unigram"
    defaults = Roberta.defaults
    needed = ("bos_token", "eos_token")

    def start(self, files: TokenizerFiles, roles: Mapping[str, Token]) -> Tokenizer:
        if files.file is None:
            raise InputError(f"{files.folder / FILE}: missing; a SentencePiece model alone is not read; {SAVE}")
        vocab = [(piece, score) for piece, score in _vocab(files, list)]
        tokenizer = Tokenizer(Unigram(vocab=vocab, unk_id=3, byte_fallback=False))
        normalizer = files.file.get("normalizer") or {}
        parts = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
        for part in parts:
            if part.get("type") == "Precompiled" and "precompiled_charsmap" in part:
                charsmap = base64.b64decode(part["precompiled_charsmap"])
                tokenizer.normalizer = normalizers.Precompiled(charsmap)
                break
        scheme = "always" if files.flag("add_prefix_space", True) else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=scheme),
            ]
        )
        return tokenizer

    def finish(self, tokenizer: Tokenizer, files: TokenizerFiles, names: Mapping[str, str]) -> None:
        first, last = names["bos_token"], names["eos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[first, "$A", last],
            pair=[first, "$A", last, last, "$B", last],
            special_tokens=[(name, _id(tokenizer, name)) for name in (first, last)],
        )


CLASSES: Mapping[str, TokenizerClass] = {kind.name: kind() for kind in (TokenizerClass, Bert, Roberta, XlmRoberta)}


def model_of(files: TokenizerFiles) -> str | None:
    """Returns the type of the model in tokenizer.json; None in old files, which do not name it."""
    model = (files.file or {}).get("model")
    if not isinstance(model, Mapping) or "vocab" not in model:
        raise InputError(f"{files.folder / FILE}: model: expected an object with a `vocab`; {SAVE}")
    kind = model.get("type")
    return None if kind is None else str(kind)


def _vocab(files: TokenizerFiles, kind: type) -> Any:
    """Returns the vocabulary of tokenizer.json. Raises InputError if it is no `kind`."""
    vocab = (files.file or {})["model"]["vocab"]
    if not isinstance(vocab, kind):
        raise InputError(f"{files.folder / FILE}: model.vocab: expected a {kind.__name__}, got {type(vocab).__name__}")
    return vocab


def _merges(files: TokenizerFiles) -> list[tuple[str, str]]:
    """Returns the pairs in tokenizer.json, which are texts with a blank between, or lists of two."""
    merges = (files.file or {})["model"].get("merges") or []
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges]
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            raise InputError(f"{files.folder / FILE}: model.merges: {number}: expected two parts, got {pair!r}")
    return [(first, second) for first, second in pairs]


def _require(files: TokenizerFiles, *names: str) -> None:
    """Raises InputError if a folder without tokenizer.json lacks the files of a vocabulary too."""
    if not all((files.folder / name).exists() for name in names):
        raise InputError(f"{files.folder}: has neither {FILE} nor {' and '.join(names)}; {SAVE}")


def _id(tokenizer: Tokenizer, name: str) -> int:
    """Returns the id of a token that the tokenizer has."""
    number = tokenizer.token_to_id(name)
    assert number is not None
    return number
