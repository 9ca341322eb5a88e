"""Sentences as CoNLL-2003 has them, with a column between word and tag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TaggedRows, text_file


def write(folder: Path, rows: TaggedRows) -> dict[str, Any]:
    sentences = ("".join(f"{w} POS {t}\n" for w, t in zip(text.split(" "), tags, strict=True)) for text, tags in rows)
    return {"train": text_file(folder / "rows.conll", "-DOCSTART- -X- O\n\n" + "\n".join(sentences))}
