"""The signed statement about a folder: every file with its hash. No cryptography, no jax.

Source: OpenSSF Model Signing specification v1.0 (ossf/model-signing-spec), sections 5 and 6: an in-toto statement v1
with the predicate `https://model_signing/signature/v1.0`, file serialization and SHA-256. Other serializations, other
hashes and symbolic links are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.errors import InputError, shown
from backbone.files import sha256_file
from backbone.texts import load_json, require_unicode

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
FOLDER = "signatures"  # folder of the signatures inside a signed folder, which none of them covers
SUFFIX = ".sig"  # suffix of a signature's file
IGNORED = (".git", ".gitattributes", ".github", ".gitignore")  # paths at the root that the specification leaves out


def resources_of(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file, as hexadecimal digits, by its path from the folder with `/`, sorted.

    Raises InputError for a folder without a file, for a link, and for what is no plain file.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: no folder, or a link to one; name the graft or backbone folder itself")
    digests: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        left_out = name.split("/")[0] in (*IGNORED, FOLDER)
        if path.is_symlink() and not (left_out and "/" in name):
            raise InputError(f"{path}: a symbolic link; a signed folder holds plain files")
        if left_out:
            continue
        require_unicode(name, f"{folder}: name of a file")
        if path.is_dir():
            continue
        if not path.is_file():
            raise InputError(f"{path}: neither a plain file nor a folder; remove it")
        digests[name] = sha256_file(path).removeprefix("sha256:")
    if not digests:
        raise InputError(f"{folder}: holds no file to sign")
    return dict(sorted(digests.items()))


def root_digest(digests: Mapping[str, str]) -> str:
    """Returns the SHA-256 over the files' hashes in the order of their names (section 6.5.1)."""
    return hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in sorted(digests))).hexdigest()


def statement_of(name: str, digests: Mapping[str, str]) -> bytes:
    """Returns the statement about the files of a folder `name`, as JSON."""
    resources = [{"name": file, "digest": digests[file], "algorithm": "sha256"} for file in sorted(digests)]
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [*IGNORED, FOLDER],
    }
    values = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root_digest(digests)}}],
        "predicateType": PREDICATE,
        "predicate": {"resources": resources, "serialization": serialization},
    }
    return json.dumps(values, ensure_ascii=False).encode()


def signed_digests(payload: bytes) -> dict[str, str]:
    """Returns the hashes that a statement lists, by file; raises InputError for whatever this version cannot check."""
    values = strict_json(payload)
    try:
        if (values["_type"], values["predicateType"]) != (STATEMENT, PREDICATE):
            raise InputError(f"a statement of type {shown(values['predicateType'])}, expected {PREDICATE}")
        predicate = values["predicate"]
        _require_plain(predicate["serialization"])
        digests: dict[str, str] = {}
        names = [str(one["name"]) for one in predicate["resources"]]
        for one in predicate["resources"]:
            if one["algorithm"] != "sha256":
                raise InputError(f"{shown(one['name'])}: hashed with {shown(one['algorithm'])}, expected sha256")
            digests[str(one["name"])] = str(one["digest"])
        if not names or names != sorted(set(names)):
            raise InputError("its files are not listed once each, in order")
        (subject,) = values["subject"]
        if subject["digest"]["sha256"] != root_digest(digests):
            raise InputError("its root digest is not that of its files")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"no statement of model signing ({type(error).__name__}: {error})") from error
    return digests


def _require_plain(serialization: Mapping[str, Any]) -> None:
    """Raises InputError unless whole files without links were hashed, and no more was left out than here."""
    expected = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    for name, value in expected.items():
        if serialization[name] != value or type(serialization[name]) is not type(value):
            raise InputError(f"serialization.{name} is {shown(serialization[name])}, this version checks {value!r}")
    known = set(expected) | {"ignore_paths"}
    if strange := sorted(set(serialization) - known):
        raise InputError(f"serialization.{strange[0]}: unknown; expected {', '.join(sorted(known))}")
    for path in serialization.get("ignore_paths", ()):
        if str(path).split("/")[0] not in (*IGNORED, FOLDER):
            raise InputError(f"serialization.ignore_paths leaves out {shown(path)}, which a signature must cover")


def strict_json(text: bytes) -> Any:
    """Returns a JSON object; raises InputError for anything else, and for a key that stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise ValueError("a key stands twice")
        return values

    try:
        values = load_json(text.decode(), object_pairs_hook=unique)
    except ValueError as error:
        raise InputError(f"no JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"no JSON object: {shown(values)}")
    return values
