"""The rows of a data set as hashes: small enough for every version, and enough to tell which rows changed.

A file of them lies in the store beside the artefacts. It is named by the fingerprint of the rows, so versions made
from the same rows share one file. It holds no text.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.labels.spelling import spelling
from backbone.files import write_durable
from registry.store import rows_name
from trainers.data.rows import LabelledRow
from trainers.data.splits import fingerprint, row_hash
from trainers.retrain.lineage import Changes

log = logging.getLogger(__name__)

SEPARATOR = "\x1f"  # between the labels of one row


@dataclass(frozen=True)
class SplitRows:
    """Rows of one split, in canonical order."""

    texts: np.ndarray  # hash of each exact text, uint64 [N]
    labels: np.ndarray  # place of each row's label set in `names`, int32 [N]
    names: tuple[str, ...]  # label sets that occur, each joined by SEPARATOR
    lengths: np.ndarray  # length of each text in characters, int32 [N]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def pairs(self) -> list[tuple[int, str]]:
        """Returns the text hash and the label set of each row."""
        return [
            (text, self.names[label]) for text, label in zip(self.texts.tolist(), self.labels.tolist(), strict=True)
        ]

    @property
    def label_counts(self) -> dict[str, int]:
        """Returns the number of rows of each single label."""
        counts: Counter[str] = Counter()
        for place, count in Counter(self.labels.tolist()).items():
            for label in filter(None, self.names[place].split(SEPARATOR)):
                counts[label] += count
        return dict(sorted(counts.items()))


Rows = Mapping[str, SplitRows]  # by split


def text_hash(text: str) -> int:
    """Returns 64 bits of the sha256 of the exact text."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "little")


def hashed(splits: Mapping[str, Iterable[LabelledRow]]) -> tuple[dict[str, SplitRows], dict[str, str]]:
    """Returns the rows as hashes, and the fingerprint of each split."""
    rows, prints = {}, {}
    for name, split in splits.items():
        split = list(split)
        labels = [SEPARATOR.join(row.labels) for row in split]
        names = tuple(sorted(set(labels)))
        place = {label: i for i, label in enumerate(names)}
        rows[name] = SplitRows(
            texts=np.array([text_hash(row.content) for row in split], np.uint64),
            labels=np.array([place[label] for label in labels], np.int32),
            names=names,
            lengths=np.array([len(row.content) for row in split], np.int32),
        )
        prints[name] = fingerprint(row_hash(row.content, row.labels) for row in split)
    return rows, prints


def changes(old: SplitRows | None, new: SplitRows | None) -> Changes:
    """Counts the rows that were added, removed and relabelled.

    A row is its exact text, so an edited text counts as one row removed and one added.
    """
    before: dict[int, Counter[str]] = defaultdict(Counter)
    after: dict[int, Counter[str]] = defaultdict(Counter)
    for counts, split in ((before, old), (after, new)):
        for text, label in split.pairs if split is not None else ():
            counts[text][label] += 1
    added = removed = relabelled = 0
    for text in before.keys() | after.keys():
        lost, gained = (before[text] - after[text]).total(), (after[text] - before[text]).total()
        both = min(lost, gained)
        added, removed, relabelled = added + gained - both, removed + lost - both, relabelled + both
    return Changes(added, removed, relabelled)


def _spelt(labels: str) -> str:
    """Returns the labels of a row in their normal form: former versions kept them as they were written."""
    return SEPARATOR.join(map(spelling, labels.split(SEPARATOR)))


def rows_file(store: Path, prints: Mapping[str, str]) -> Path:
    """Returns the file that keeps the rows with these fingerprints."""
    return store / rows_name(prints)


def save_rows(store: Path, rows: Rows, prints: Mapping[str, str]) -> None:
    """Writes the rows to a store that exists. A file that exists already keeps its content, and counts as new."""
    path = rows_file(store, prints)
    if path.exists():
        os.utime(path)  # gc removes old ones that no artefact was made from, and this one is about to be used
        return
    arrays: dict[str, np.ndarray] = {}
    for name, split in rows.items():
        arrays |= {f"{name}.texts": split.texts, f"{name}.labels": split.labels, f"{name}.lengths": split.lengths}
        arrays[f"{name}.names"] = np.frombuffer("\0".join(split.names).encode(errors="surrogatepass"), np.uint8)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_durable(path, content.getvalue())


def load_rows(store: Path, prints: Mapping[str, str]) -> dict[str, SplitRows] | None:
    """Returns the rows with these fingerprints; None if their file is missing or damaged.

    Without them every row counts as new.
    """
    path = rows_file(store, prints)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, np.ndarray] = dict(file)
        return {
            name: SplitRows(
                texts=arrays[f"{name}.texts"],
                labels=arrays[f"{name}.labels"],
                names=tuple(map(_spelt, arrays[f"{name}.names"].tobytes().decode(errors="surrogatepass").split("\0"))),
                lengths=arrays[f"{name}.lengths"],
            )
            for name in prints
        }
    except FileNotFoundError:
        log.warning("%s: missing; what changed since the live version is unknown", path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s: damaged (%s); what changed since the live version is unknown", path, error)
        path.unlink(missing_ok=True)
    return None
