"""The rows of a data set as hashes: small enough to keep with every version, enough to tell what changed.

Kept in the store beside the artefacts, named by the fingerprint of the rows, so that versions made from the
same rows share one file. No text is kept.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbone.files import write_durable
from backbone.records import digest
from trainers.data.rows import LabelledRow
from trainers.data.splits import fingerprint, row_hash

log = logging.getLogger(__name__)

SEPARATOR = "\x1f"  # between the labels of one row


@dataclass(frozen=True)
class SplitRows:
    """One split, in canonical order."""

    texts: np.ndarray  # uint64 [N], hash of each exact text
    labels: np.ndarray  # int32 [N], place in `names`
    names: tuple[str, ...]  # label sets that occur, joined by SEPARATOR
    lengths: np.ndarray  # int32 [N], characters of each text

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def pairs(self) -> list[tuple[int, str]]:
        """(text hash, label set) of each row."""
        return [
            (text, self.names[label]) for text, label in zip(self.texts.tolist(), self.labels.tolist(), strict=True)
        ]

    @property
    def label_counts(self) -> dict[str, int]:
        """Rows of each single label."""
        counts: Counter[str] = Counter()
        for place, count in Counter(self.labels.tolist()).items():
            for label in filter(None, self.names[place].split(SEPARATOR)):
                counts[label] += count
        return dict(sorted(counts.items()))


Rows = Mapping[str, SplitRows]  # by split


@dataclass(frozen=True)
class Changes:
    """What differs between two data sets, in rows."""

    added: int
    removed: int
    relabelled: int

    @property
    def total(self) -> int:
        return self.added + self.removed + self.relabelled


def text_hash(text: str) -> int:
    """64 bits of the sha256 of the exact text."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "little")


def hashed(splits: Mapping[str, Iterable[LabelledRow]]) -> tuple[dict[str, SplitRows], dict[str, str]]:
    """The rows as hashes, and the fingerprint of each split."""
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
    """Rows added, removed and relabelled. A row is its exact text; an edited text is one removed and one added."""
    before: dict[int, Counter[str]] = defaultdict(Counter)
    after: dict[int, Counter[str]] = defaultdict(Counter)
    for counts, split in ((before, old), (after, new)):
        for text, label in split.pairs if split is not None else ():
            counts[text][label] += 1
    added = removed = relabelled = 0
    for text in before.keys() | after.keys():
        gone, come = (before[text] - after[text]).total(), (after[text] - before[text]).total()
        both = min(gone, come)
        added, removed, relabelled = added + come - both, removed + gone - both, relabelled + both
    return Changes(added, removed, relabelled)


def rows_file(store: Path, prints: Mapping[str, str]) -> Path:
    """Where the rows with these fingerprints are kept."""
    return store / f"{digest(dict(prints)).removeprefix('sha256:')[:32]}.rows.npz"


def save_rows(store: Path, rows: Rows, prints: Mapping[str, str]) -> None:
    """Keeps the rows in a store that exists; a file that is there already is left."""
    path = rows_file(store, prints)
    if path.exists():
        return
    arrays: dict[str, np.ndarray] = {}
    for name, split in rows.items():
        arrays |= {f"{name}.texts": split.texts, f"{name}.labels": split.labels, f"{name}.lengths": split.lengths}
        arrays[f"{name}.names"] = np.frombuffer("\0".join(split.names).encode(errors="surrogatepass"), np.uint8)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_durable(path, content.getvalue())


def load_rows(store: Path, prints: Mapping[str, str]) -> dict[str, SplitRows] | None:
    """The rows with these fingerprints; None if they are not kept, or damaged: then every row counts as new."""
    path = rows_file(store, prints)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, np.ndarray] = dict(file)
        return {
            name: SplitRows(
                texts=arrays[f"{name}.texts"],
                labels=arrays[f"{name}.labels"],
                names=tuple(arrays[f"{name}.names"].tobytes().decode(errors="surrogatepass").split("\0")),
                lengths=arrays[f"{name}.lengths"],
            )
            for name in prints
        }
    except FileNotFoundError:
        log.warning("%s: missing; what changed since the live version cannot be told", path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s: damaged (%s); what changed since the live version cannot be told", path, error)
        path.unlink(missing_ok=True)
    return None
