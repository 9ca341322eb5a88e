"""The tokenizer files of a published folder, merged in the order of transformers' `AutoTokenizer`.

`tokenizer_config.json` holds settings and special tokens. Where it has no `added_tokens_decoder`, those of
`special_tokens_map.json`, `added_tokens.json` and `tokenizer.json` are read too. Source: `_from_pretrained` of
`PreTrainedTokenizerBase`, transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken

from backbone.errors import InputError
from backbone.exchange.published_files import read_json, read_text

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FILE, CONFIG, SPECIAL, ADDED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
EXTRA, ADDITIONAL = "extra_special_tokens", "additional_special_tokens"  # the same field, now and formerly
VOCAB_TXT, VOCAB_JSON, MERGES = "vocab.txt", "vocab.json", "merges.txt"
FILES = (FILE, CONFIG, SPECIAL, ADDED, VOCAB_TXT, VOCAB_JSON, MERGES)
SAVE = "save it with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # settings of an added token

# U+001C to U+001F are white space for Python's strip, not for Unicode, by whose rule the tokenizers library strips.
_WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))

Token: TypeAlias = str | AddedToken


@dataclass(frozen=True)
class TokenizerFiles:
    """The content of a folder's tokenizer files."""

    folder: Path
    settings: Mapping[str, Any]  # fields of tokenizer_config.json
    file: Mapping[str, Any] | None  # content of tokenizer.json
    roles: dict[str, Token | None] = field(default_factory=dict)  # special tokens by role; None: there is to be none
    extra: list[Token] = field(default_factory=list)  # further special tokens
    added: dict[int, AddedToken] = field(default_factory=dict)  # added tokens by the id that the files give them

    def flag(self, name: str, default: bool) -> bool:
        """Returns a setting that is true or false. Raises InputError for any other value."""
        value = self.settings.get(name, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.folder / CONFIG}: {name}: expected true or false, got {value!r}")
        return value

    def word(self, name: str, default: str, choices: Iterable[str]) -> str:
        """Returns a setting that is one of some words. Raises InputError for any other value."""
        value = self.settings.get(name, default)
        if value not in tuple(choices):
            raise InputError(f"{self.folder / CONFIG}: {name}: expected one of {', '.join(choices)}, got {value!r}")
        return str(value)

    def longest(self) -> int | None:
        """Returns the longest input that `model_max_length` allows, or None without a limit."""
        value = self.settings.get("model_max_length", self.settings.get("max_len"))
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 3:
            raise InputError(f"{self.folder / CONFIG}: model_max_length: expected tokens, 3 or more, got {value!r}")
        return int(min(value, 2**31))


def read_files(folder: Path) -> TokenizerFiles:
    """Reads a folder's tokenizer files. Raises InputError naming the file and the field at fault."""
    settings = read_json(folder / CONFIG, SAVE) if (folder / CONFIG).exists() else {}
    file = read_json(folder / FILE, SAVE) if (folder / FILE).exists() else None
    files = TokenizerFiles(folder, settings, file)
    _refuse_code(files)
    _read_roles(files, settings, CONFIG)
    _read_additional(files, settings, CONFIG)
    if "added_tokens_decoder" in settings:
        _read_decoder(files, settings["added_tokens_decoder"])
        return files
    special = read_json(folder / SPECIAL, SAVE) if (folder / SPECIAL).exists() else {}
    _read_roles(files, special, SPECIAL, special=True)
    if (folder / ADDED).exists():
        _read_added(files, read_json(folder / ADDED, SAVE))
    _read_additional(files, special, SPECIAL, special=True)  # behind the added tokens, which it does not make special
    if file is not None:
        _read_file_tokens(files, file.get("added_tokens") or [])
    return files


def str_of(token: Token) -> str:
    """Returns the text of a token."""
    return token if isinstance(token, str) else str(token.content)


def read_vocab_txt(folder: Path) -> dict[str, int]:
    """Returns the ids of the tokens in vocab.txt, one a line, without the white space behind them."""
    lines = read_text(folder / VOCAB_TXT, SAVE).split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError(f"{folder / VOCAB_TXT}: empty; fetch the file again")
    return {line.rstrip(_WHITE): number for number, line in enumerate(lines)}


def read_vocab_json(folder: Path) -> dict[str, int]:
    """Returns the ids of the tokens in vocab.json."""
    vocab = read_json(folder / VOCAB_JSON, SAVE)
    for token, number in vocab.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InputError(f"{folder / VOCAB_JSON}: {token!r}: expected the id of a token, got {number!r}")
    return dict(vocab)


def read_merges(folder: Path) -> list[tuple[str, str]]:
    """Returns the pairs of merges.txt; a first line with the version is left out."""
    pairs = []
    for number, line in enumerate(read_text(folder / MERGES, SAVE).split("\n"), 1):
        line = line.removesuffix("\r")
        if line.startswith("#version") or not line:
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise InputError(f"{folder / MERGES}: line {number}: expected two parts and a blank between, got {line!r}")
        pairs.append((parts[0], parts[1]))
    return pairs


def _refuse_code(files: TokenizerFiles) -> None:
    """Raises InputError for settings whose meaning a tokenizer.json cannot hold."""
    where = files.folder / CONFIG
    code = files.settings.get("auto_map")
    if code and (not isinstance(code, Mapping) or code.get("AutoTokenizer")):
        raise InputError(
            f"{where}: auto_map: a tokenizer with code of its own is not supported; remove the field if {FILE} is the "
            f"whole tokenizer"
        )
    if files.flag("split_special_tokens", False):
        raise InputError(f"{where}: split_special_tokens: true is not supported; only false is")
    if (files.settings.get("fast_tokenizer_files") or [FILE]) != [FILE]:
        raise InputError(f"{where}: fast_tokenizer_files: several versions are not supported; {SAVE}")


def _read_roles(files: TokenizerFiles, content: Mapping[str, Any], name: str, *, special: bool = False) -> None:
    """Adds the special tokens of a file, which beat those that were read before."""
    for key, value in content.items():
        where = f"{files.folder / name}: {key}"
        if key == EXTRA:
            _add_extra(files, value, where, special)
        elif key in ROLES:
            files.roles[key] = None if value is None else _token(value, where, special)
        elif key.endswith("_token") and isinstance(value, (str, Mapping)):
            files.roles[key] = _token(value, where, special)


def _read_additional(files: TokenizerFiles, content: Mapping[str, Any], name: str, *, special: bool = False) -> None:
    """Adds the further special tokens of a former field, which says nothing beside those of the present one."""
    if not files.extra and not content.get(EXTRA):
        _add_extra(files, content.get(ADDITIONAL), f"{files.folder / name}: {ADDITIONAL}", special)


def _add_extra(files: TokenizerFiles, value: object, where: str, special: bool) -> None:
    """Adds further special tokens: a list, or an object of tokens by role; null is neither."""
    if value is None:
        return
    if isinstance(value, Mapping):
        files.roles.update({role: _token(token, where, special) for role, token in value.items()})
        return
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list of tokens, got {value!r}")
    known = set(map(str_of, files.extra))
    tokens = [_token(entry, where, special) for entry in value]
    files.extra.extend(token for token in tokens if str_of(token) not in known)


def _read_decoder(files: TokenizerFiles, decoder: object) -> None:
    where = f"{files.folder / CONFIG}: added_tokens_decoder"
    if not isinstance(decoder, Mapping):
        raise InputError(f"{where}: expected a JSON object of tokens by id, got {decoder!r}")
    for number, value in decoder.items():
        token = _token(value, f"{where}: {number}", False)
        if not number.isdecimal() or isinstance(token, str):
            raise InputError(f"{where}: {number}: expected an id with an object that holds `content`, got {value!r}")
        files.added[int(number)] = token


def _read_added(files: TokenizerFiles, content: Mapping[str, Any]) -> None:
    named = (files.roles.get(role) for role in ROLES)
    special = {str_of(token) for token in (*named, *files.extra) if token is not None}
    for name, number in content.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise InputError(f"{files.folder / ADDED}: {name!r}: expected the id of a token, got {number!r}")
        files.added[number] = AddedToken(name, normalized=name not in special, special=name in special)


def _read_file_tokens(files: TokenizerFiles, tokens: object) -> None:
    where = f"{files.folder / FILE}: added_tokens"
    if not isinstance(tokens, list):
        raise InputError(f"{where}: expected a list, got {tokens!r}")
    for entry in tokens:
        token = _token(entry, where, False)
        number = entry.get("id") if isinstance(entry, Mapping) else None
        if isinstance(token, str) or isinstance(number, bool) or not isinstance(number, int):
            raise InputError(f"{where}: expected objects with `id` and `content`, got {entry!r}")
        files.added[number] = token


def _token(value: object, where: str, special: bool) -> Token:
    """Returns a token: its text, or a record with its flags, which is special in any case where `special` is true."""
    if isinstance(value, str) and value:
        return value
    content = value.get("content") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(content, str) or not content:
        raise InputError(f"{where}: expected a token, or an object that holds `content`, got {value!r}")
    flags = {name: value[name] for name in _FLAGS if name in value} | ({"special": True} if special else {})
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise InputError(f"{where}: {content!r}: {', '.join(_FLAGS)} are true or false, got {flags!r}")
    return AddedToken(content, **flags)
