"""The split of each row: a hash of its normalised text decides between train, development and gate.

Gate rows are those whose hash lies below `gate_fraction`, development rows those in the top `dev_fraction`, so raising
one fraction never moves rows of the other. A row does not move when the data change, but for one case: a development
row whose label training lacks is moved to training for good, and is known by `place_hash` from then on. Imports
nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Literal

NUMERICS_VERSION = 1  # raised by hand when the same rows would train another model


def normalise(text: str) -> str:
    """Returns the text in NFKC, casefolded and stripped, with runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def unit_hash(text: str, salt: str) -> float:
    """Returns a number in [0, 1) from the normalised text; another salt gives an independent number."""
    digest = hashlib.sha256(f"{salt}\0{normalise(text)}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def membership(text: str, dev_fraction: float, gate_fraction: float) -> Literal["train", "dev", "gate"]:
    """Returns the split of a row of the train files."""
    place = unit_hash(text, "split")
    if place < gate_fraction:
        return "gate"
    return "dev" if place >= 1 - dev_fraction else "train"


def place_hash(text: str) -> str:
    """Returns the name, 32 hex digits, by which a row that was moved is known: near duplicates share it."""
    return hashlib.sha256(f"place\0{normalise(text)}".encode(errors="surrogatepass")).hexdigest()[:32]


def kept(text: str, train_fraction: float) -> bool:
    """Returns whether a train row is in the share that is used."""
    return unit_hash(text, "share") < train_fraction


def row_hash(text: str, labels: Iterable[str]) -> bytes:
    """Returns the sha256 of the exact text and labels."""
    state = hashlib.sha256()
    for part in (text, *labels):
        data = part.encode(errors="surrogatepass")
        state.update(len(data).to_bytes(8, "big") + data)
    return state.digest()


def fingerprint(hashes: Iterable[bytes]) -> str:
    """Returns `sha256:<hex>` of a multiset of row hashes, in any order."""
    state = hashlib.sha256(f"rows {NUMERICS_VERSION}\n".encode())
    for item in sorted(hashes):
        state.update(item)
    return "sha256:" + state.hexdigest()
