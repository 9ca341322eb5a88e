"""The tokenizer of a published folder, made anew as the class does that transformers' `AutoTokenizer` chooses.

    made = published_tokenizer(folder, config, "BertTokenizer", room=30522)

Four classes cover the families. Three of them take the vocabulary of the files alone and build the rest from
`tokenizer_config.json` and their defaults. `TokenizersBackend` (known as `PreTrainedTokenizerFast` too) keeps
`tokenizer.json` as it is. All of them add special and added tokens in the same order, since new tokens get new ids.
A tokenizer.json that means the same is kept to the byte, so that a `preprocessing_id` moves only where ids do.

Source: transformers 5.24, `AutoTokenizer`, `TokenizersBackend`, `BertTokenizer`, `RobertaTokenizer` and
`XLMRobertaTokenizer`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from backbone.errors import InputError
from backbone.tokenizer_files import (
    CONFIG,
    FILE,
    ROLES,
    SAVE,
    Token,
    TokenizerFiles,
    read_files,
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


@dataclass(frozen=True)
class PublishedTokenizer:
    """A tokenizer as it was made from its files."""

    text: str  # tokenizer.json, with the side that is cut and the padding token
    longest: int | None  # longest input that the files allow, in tokens; None without a limit
    notes: tuple[str, ...]  # differences from the tokenizer.json of the folder


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
        vocab = read_vocab_txt(files.folder) if files.file is None else _vocab(files, dict)
        tokenizer = Tokenizer(WordPiece(vocab, unk_token=str_of(roles["unk_token"])))
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


def published_tokenizer(folder: Path, config: Mapping[str, Any], default: str, room: int) -> PublishedTokenizer:
    """Returns the tokenizer of a folder with the `config.json` given.

    `default` is the class that transformers has for the family, and `room` the number of embedded tokens. Raises
    InputError naming the file and the field at fault.
    """
    files = read_files(folder)
    where = str(folder / (FILE if files.file is not None else CONFIG))
    with tokenizers_errors(where, "does not make a tokenizer"):
        kind = _class_of(files, config, default)
        notes = []
        if files.file is not None and kind.model and _model_of(files) not in (kind.model, None):
            notes.append(f"transformers' {kind.name} has no {_model_of(files)} model; {FILE} is taken as it is")
            kind = CLASSES[BACKEND]
        roles = _roles(files, kind)
        tokenizer = kind.start(files, roles)
        _add_tokens(tokenizer, files, roles, room)
        names = {role: str_of(token) for role, token in roles.items()}
        for role in kind.needed:
            if tokenizer.token_to_id(names[role]) is None:
                raise InputError(f"{where}: {role}: {names[role]!r} is not in the vocabulary; name it in {CONFIG}")
        kind.finish(tokenizer, files, names)
        content = json.loads(tokenizer.to_str())
        if files.file is not None:
            original = json.loads(Tokenizer.from_str(json.dumps(files.file)).to_str())
            parts = _differences(original, content)
            notes += [
                f"{part} of {FILE} is not as transformers' {kind.name} makes it, and was replaced" for part in parts
            ]
            content = content if parts else dict(files.file)
        content["truncation"] = _truncation(files)
        content["padding"] = _padding(files, tokenizer, names)
    return PublishedTokenizer(json.dumps(content, ensure_ascii=False), files.longest(), tuple(notes))


@contextmanager
def tokenizers_errors(where: str, fault: str) -> Iterator[None]:
    """Turns any failure of the tokenizers library, a panic included, into an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{where}: {fault}: {error}; {SAVE}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # no Exception, and not importable
            raise
        raise InputError(f"{where}: {fault}: {error}; {SAVE}") from error


def _class_of(files: TokenizerFiles, config: Mapping[str, Any], default: str) -> TokenizerClass:
    """Returns the class that `AutoTokenizer` takes: the one that the files name, else that of the family."""
    name = files.settings.get("tokenizer_class") or config.get("tokenizer_class")
    if name is None or default == BACKEND:
        return CLASSES[default]
    if isinstance(name, str) and (known := ALIASES.get(name.removesuffix("Fast"))):
        return CLASSES[known]
    raise InputError(
        f"{files.folder / CONFIG}: tokenizer_class: {name!r} is not supported; if {FILE} is the whole tokenizer, set "
        f"it to PreTrainedTokenizerFast; known: {', '.join(ALIASES)}"
    )


def _roles(files: TokenizerFiles, kind: TokenizerClass) -> dict[str, Token]:
    """Returns the special tokens by role, in the order in which they are added."""
    stated = {**kind.defaults, **files.roles}
    if kind.name == BACKEND and files.file is not None and "pad_token" not in stated:
        padding = files.file.get("padding")
        if isinstance(padding, Mapping) and isinstance(padding.get("pad_token"), str):
            stated["pad_token"] = padding["pad_token"]
    for role in kind.needed:
        if stated.get(role) is None:
            raise InputError(f"{files.folder / CONFIG}: {role}: {kind.name} needs one, got null")
    order = [*ROLES, *(role for role in stated if role not in ROLES)]
    return {role: token for role in order if (token := stated.get(role)) is not None}


def _add_tokens(tokenizer: Tokenizer, files: TokenizerFiles, roles: Mapping[str, Token], room: int) -> None:
    """Adds the added tokens by their ids, then the special ones that are not among them, in one call.

    A special token that no file names, and for which neither vocabulary nor embeddings have a row, is left out:
    transformers gives it an id that its model cannot embed.
    """
    tokens: list[AddedToken] = [token for _, token in sorted(files.added.items(), key=lambda item: item[0])]
    special = {str_of(token) for token in roles.values()}
    for token in tokens:
        token.special = token.special or token.content in special
    known = {token.content for token in (*tokenizer.get_added_tokens_decoder().values(), *tokens)}
    size = tokenizer.get_vocab_size()
    for role, further in [*roles.items(), *(("", token) for token in files.extra)]:
        name = str_of(further)
        if name in known:
            continue
        if tokenizer.token_to_id(name) is None:
            if role and role not in files.roles and size >= room:
                continue
            size += 1
        known.add(name)
        tokens.append(AddedToken(further, special=True) if isinstance(further, str) else further)
    for token in tokens:
        token.special = token.special or token.content in special
    tokenizer.add_tokens(tokens)


def _id(tokenizer: Tokenizer, name: str) -> int:
    """Returns the id of a token that the tokenizer has."""
    number = tokenizer.token_to_id(name)
    assert number is not None
    return number


def _model_of(files: TokenizerFiles) -> str | None:
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


def _differences(original: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """Returns the parts in which two tokenizers, as the library writes them, give other ids or segments."""
    parts = []
    for part in ("normalizer", "pre_tokenizer", "post_processor", "added_tokens"):
        if _plain(original.get(part)) != _plain(made.get(part)):
            parts.append(part)
    for name in sorted({*original["model"], *made["model"]} - {"vocab"}):
        # An empty prefix or suffix is none.
        if (original["model"].get(name) or None) != (made["model"].get(name) or None):
            parts.append(f"model.{name}")
    if original["model"]["vocab"] != made["model"]["vocab"]:
        parts.append("model.vocab")
    return parts


def _plain(part: Any) -> Any:
    """Returns a post-processor of BERT as the template that it stands for, and any other part as it is."""
    if not isinstance(part, Mapping) or part.get("type") != "BertProcessing":
        return part
    (last, last_id), (first, first_id) = part["sep"], part["cls"]
    template = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(first, first_id), (last, last_id)],
    )
    probe = Tokenizer(BPE())
    probe.post_processor = template
    return json.loads(probe.to_str())["post_processor"]


def _truncation(files: TokenizerFiles) -> dict[str, object] | None:
    """Returns the field of tokenizer.json for the side that is cut; None where it is the right one."""
    stored = (files.file or {}).get("truncation") or {}
    default = str(stored.get("direction", "right")).lower() if isinstance(stored, Mapping) else "right"
    if files.word("truncation_side", default, ("right", "left")) == "right":
        return None
    return {"direction": "Left", "max_length": 512, "strategy": "LongestFirst", "stride": 0}


def _padding(files: TokenizerFiles, tokenizer: Tokenizer, names: Mapping[str, str]) -> dict[str, object] | None:
    """Returns the field of tokenizer.json for the padding token; None without one."""
    files.word("padding_side", "right", ("right", "left"))  # no part of a text's ids: padding is masked
    name = names.get("pad_token")
    number = None if name is None else tokenizer.token_to_id(name)
    if number is None:
        return None
    return {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": number,
        "pad_type_id": 0,
        "pad_token": name,
    }
