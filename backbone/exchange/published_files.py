"""Small files of a published folder: JSON and text, with errors that name the file and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backbone.compression import POINTER
from backbone.errors import InputError
from backbone.texts import parse_json


def refuse_pointer(path: Path) -> None:
    """Raises InputError if a file is a pointer of Git LFS; a missing file passes."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise InputError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}")


def read_text(path: Path, remedy: str) -> str:
    """Returns the text of a UTF-8 file without its byte order mark.

    Raises InputError for a missing file, with `remedy`, for one that cannot be read, and for a pointer of Git LFS.
    """
    try:
        refuse_pointer(path)
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {remedy}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}; fetch the file again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; {remedy}") from error


def read_json(path: Path, remedy: str, kind: type = dict) -> Any:
    """Returns the content of a JSON file, an object or what `kind` says. Raises InputError as `read_text` does."""
    text = read_text(path, remedy)
    try:
        content = parse_json(text, str(path))
    except InputError as error:
        raise InputError(f"{error}; if the file is damaged, fetch it again") from error
    if not isinstance(content, kind):
        expected = "a JSON object" if kind is dict else "a JSON list"
        raise InputError(f"{path}: expected {expected}, got {type(content).__name__}; fetch the file again")
    return content
