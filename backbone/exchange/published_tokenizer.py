"""The tokenizer of a published folder, made anew as transformers' `AutoTokenizer` makes it.

    made = published_tokenizer(folder, config, "BertTokenizer", room=30522)

The files name a class of `backbone.exchange.tokenizer_classes`, or that of the family is taken. Special and added
tokens are added in transformers' order, since new tokens get new ids. A tokenizer.json that means the same is kept to
the byte, so that a `preprocessing_id` moves only where ids do.

Source: transformers 5.24, `AutoTokenizer` and `TokenizersBackend`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors
from tokenizers.models import BPE

from backbone.errors import InputError
from backbone.exchange.tokenizer_classes import ALIASES, BACKEND, CLASSES, TokenizerClass, model_of
from backbone.exchange.tokenizer_files import CONFIG, FILE, ROLES, SAVE, Token, TokenizerFiles, read_files, str_of


@dataclass(frozen=True)
class PublishedTokenizer:
    """A tokenizer as it was made from its files."""

    text: str  # tokenizer.json, with the side that is cut and the padding token
    longest: int | None  # longest input that the files allow, in tokens; None without a limit
    notes: tuple[str, ...]  # differences from the tokenizer.json of the folder


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
        if files.file is not None and kind.model and model_of(files) not in (kind.model, None):
            notes.append(f"transformers' {kind.name} has no {model_of(files)} model; {FILE} is taken as it is")
            kind = CLASSES[BACKEND]
        tokenizer, names = _made(files, kind, room, where)
        content = json.loads(tokenizer.to_str())
        if files.file is not None:
            # Both pass through the library's reader once, which may round the last bit of a score.
            original, again = (Tokenizer.from_str(json.dumps(one)).to_str() for one in (files.file, content))
            parts = _differences(json.loads(original), json.loads(again))
            notes += [f"{part}: {FILE} differs from transformers' {kind.name}, which was taken" for part in parts]
            content = content if parts else dict(files.file)
        if content["model"].get("dropout"):
            raise InputError(f"{where}: model.dropout: ids drawn at random are not supported; set it to null")
        content["truncation"] = _truncation(files)
        content["padding"] = _padding(files, tokenizer, names)
    return PublishedTokenizer(json.dumps(content, ensure_ascii=False), files.longest(), tuple(notes))


def _made(files: TokenizerFiles, kind: TokenizerClass, room: int, where: str) -> tuple[Tokenizer, dict[str, str]]:
    """Returns the tokenizer that a class makes, and its special tokens by role."""
    roles = _roles(files, kind)
    tokenizer = kind.start(files, roles)
    _add_tokens(tokenizer, files, roles, room)
    names = {role: str_of(token) for role, token in roles.items()}
    for role in kind.needed:
        if tokenizer.token_to_id(names[role]) is None:
            raise InputError(f"{where}: {role}: {names[role]!r} is not in the vocabulary; name it in {CONFIG}")
    kind.finish(tokenizer, files, names)
    return tokenizer, names


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
    tokens: list[Token] = [token for _, token in sorted(files.added.items(), key=lambda item: item[0])]
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | set(map(str_of, tokens))
    size = tokenizer.get_vocab_size()
    for role, token in [*roles.items(), *(("", token) for token in files.extra)]:
        # Two roles may give one token different flags: both are handed over, and the library decides.
        if str_of(token) in present or token in tokens:
            continue
        if tokenizer.token_to_id(str_of(token)) is None:
            if role and role not in files.roles and size >= room:
                continue
            size += 1
        tokens.append(token)
    special = {str_of(token) for token in roles.values()}
    records = [AddedToken(token, special=True) if isinstance(token, str) else token for token in tokens]
    for record in records:
        record.special = record.special or record.content in special
    tokenizer.add_tokens(records)


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
