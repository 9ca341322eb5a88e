"""The verb `predict`: the answers of a graft for texts or image files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.graft import load_graft
from adapters.machine import ready_to_answer
from backbone.errors import InputError
from backbone.remote import is_remote, local
from backbone.texts import lines, load_json, read_text, text_of


@dataclass(frozen=True)
class Answers:
    """The result of `predict`; `--json` prints it.

    Each prediction has `text` (and `text_pair`) or `image`. A classification adds `labels` and the largest
    `probabilities`, and `out_of_scope` if the graft has such a score; a regression adds `value`; a tagger adds `words`,
    `tags` and `entities`.
    """

    graft: str  # folder
    content_id: str
    predictions: list[dict[str, Any]]  # one for each input


def predict(
    path: str | Path,
    texts: Sequence[str] = (),
    *,
    pairs: Sequence[str] = (),
    file: Sequence[str] | str = (),
    backbone: str | Path | None = None,
    precision: str = "",
    top: int,
) -> Answers:
    """Predicts for `texts`, and for each line of each `file` ("-" is standard input).

    On a backbone for images every `file` is an image. For a graft on pairs, `pairs` are the second texts, and a line of
    `file` holds both with a tab between. At most `top` probabilities are returned for each text. Raises InputError for
    a damaged graft, a missing backbone, or a file that cannot be read.
    """
    if top < 1:
        raise InputError(f"--top: must be at least 1, got {top}")
    if pairs and len(pairs) != len(texts):
        raise InputError(f"--text-pair: {len(pairs)} second texts for {len(texts)} of --text")
    files = [
        str(local(name)) if is_remote(name) else name for name in ([file] if isinstance(file, str) else list(file))
    ]
    if not texts and not files:
        raise InputError("no text: pass --text TEXT or --file FILE")
    ready_to_answer()
    graft = load_graft(path, backbone, precision=precision)
    images = graft.backbone.spec.image is not None
    if images and texts:
        raise InputError("--text: this graft is on a backbone for images: pass --file IMAGE")
    given: list[Any] = list(zip(texts, pairs, strict=True)) if pairs else list(texts)
    assert graft.manifest is not None
    columns = graft.manifest.training.config.get("data", {})
    inputs: list[Any] = files if images else [*given, *(line for name in files for line in _texts(name, columns))]
    if graft.model.head.pair != "none":
        inputs = [line if isinstance(line, tuple) else _sides(line) for line in inputs]
    elif pairs:
        raise InputError(f"--text-pair: {path} is no graft on pairs of texts")
    answers = zip(inputs, graft.predict(inputs), strict=True)
    predictions = [_question(line, images) | graft.model.head.facts(answer, top) for line, answer in answers]
    return Answers(str(path), graft.manifest.content_id, predictions)


def _question(line: Any, images: bool) -> dict[str, str]:
    """Returns what was asked, by name: a text, both texts of a pair, or an image's file."""
    if isinstance(line, str):
        return {"image" if images else "text": line}
    return {"text": line[0], "text_pair": line[1]}


def _sides(line: str) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab:
        raise InputError(f"{line!r}: this graft reads pairs: pass --text-pair, or a tab between both texts in --file")
    return first, second


def _texts(file: str, columns: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a file; raises InputError for a table with the `columns` that the graft was trained on.

    Its header and its labels would be answered as if they were texts.
    """
    answered = read_lines(file)
    first = answered[0].strip() if answered else ""
    text, label = columns.get("text") or "text", columns.get("label") or "label"
    fields = {field.strip().strip('"') for field in re.split(r"[,;\t|]", first)}
    try:
        document = load_json(first) if first[:1] == "{" else None
    except ValueError:
        document = None
    if {text, label} <= fields or (isinstance(document, dict) and text in document):
        raise InputError(
            f"{file}: is a table with the column {text!r}, not a text a line; write its texts alone into a file, or "
            "score labelled rows with `topgraft evaluate`"
        )
    return answered


def read_lines(file: str) -> list[str]:
    """Reads one text from each line of a file, without empty lines at its end; raises InputError."""
    text = text_of(sys.stdin.buffer.read(), "standard input") if file == "-" else read_text(Path(file))
    answered = [line for _, line in lines(text)]
    while answered and not answered[-1]:
        answered.pop()
    return answered
