"""The verb `predict`: a graft's answers for texts given on the command line or in a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.graft import Prediction, load_graft
from adapters.specs import HeadSpec, Regression, TokenTagging
from backbone.errors import InputError
from backbone.home import use_compilation_cache


@dataclass(frozen=True)
class Answers:
    """What `predict` returns; `--json` prints it."""

    graft: str
    content_id: str
    predictions: list[dict[str, Any]]
    # text (and text_pair) with labels and probabilities of the most probable ones; or with value, the number of
    # a regression; or with words, tags and entities


def predict(
    path: str | Path,
    texts: Sequence[str] = (),
    *,
    pairs: Sequence[str] = (),
    file: str | None = None,
    backbone: str | Path | None = None,
    dtype: str = "float32",
    top: int = 5,
) -> Answers:
    """Predicts for `texts`, or for each line of `file` ("-" is standard input).

    For a graft on pairs, `pairs` are the second texts, and a line of `file` is both with a tab between.
    `top` is how many probabilities are returned for each text. Raises InputError for a damaged graft, a
    missing backbone, or a file that cannot be read.
    """
    if top < 1:
        raise InputError(f"--top: must be at least 1, got {top}")
    if pairs and len(pairs) != len(texts):
        raise InputError(f"--text-pair: {len(pairs)} second texts for {len(texts)} of --text")
    lines: list[Any] = list(zip(texts, pairs, strict=True)) if pairs else list(texts)
    lines += read_lines(file) if file else []
    if not lines:
        raise InputError("no text: pass --text TEXT or --file FILE")
    use_compilation_cache()
    graft = load_graft(path, backbone, dtype=dtype)
    assert graft.manifest is not None
    if graft.model.head.pair != "none":
        lines = [line if isinstance(line, tuple) else _sides(line) for line in lines]
    elif pairs:
        raise InputError(f"--text-pair: {path} is no graft on pairs of texts")
    head = graft.model.head
    predictions = [_answer(head, text, p, top) for text, p in zip(lines, graft.predict(lines), strict=True)]
    return Answers(str(path), graft.manifest.content_id, predictions)


def _sides(line: str) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab:
        raise InputError(f"{line!r}: this graft reads pairs: pass --text-pair, or a tab between both texts in --file")
    return first, second


def _answer(head: HeadSpec, text: Any, found: Prediction, top: int) -> dict[str, Any]:
    shown = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
    if isinstance(head, Regression):
        return {**shown, "value": found.value}
    if isinstance(head, TokenTagging):
        entities = [asdict(entity) for entity in found.entities]
        return {**shown, "words": list(found.words), "tags": list(found.labels), "entities": entities}
    return {**shown, "labels": list(found.labels), "probabilities": dict(list(found.probabilities.items())[:top])}


def read_lines(file: str) -> list[str]:
    """One text a line, UTF-8; split at newlines only."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    lines = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            lines.append(line.rstrip(b"\r").decode())
        except UnicodeDecodeError as error:
            raise InputError(f"{file}:{number}: not UTF-8: {error}; convert the file to UTF-8") from error
    while lines and not lines[-1]:
        lines.pop()
    return lines
