"""The verb `cache`: the contents of the boundary caches, their integrity, and making room there and in the home."""

from __future__ import annotations

from dataclasses import dataclass

from backbone.cache import VariantStat, collect_garbage, stat
from backbone.copies import remove_unused, sizes
from backbone.errors import InputError
from backbone.home import boundaries_folder


@dataclass(frozen=True)
class CacheReport:
    """The result of `cache`; `--json` prints it."""

    folder: str
    bytes: int
    damaged: list[str]  # files whose bytes are not those written
    removed: list[str]  # segments and copies removed (gc)
    variants: list[VariantStat]
    copies: dict[str, int]  # bytes of what can be made again, by the folder of the home: streams, remote, stores


def caches(action: str, *, max_gib: float | None = None, unused_days: int | None = None) -> CacheReport:
    """Lists the caches (`stat`), hashes every segment (`verify`), or removes segments and copies (`gc`).

    `gc` removes damaged segments, then the oldest down to `max_gib`, and copies that nobody has used for `unused_days`.
    `verify` raises InputError where a segment is damaged.
    """
    if max_gib is not None and not 0 <= max_gib < 2**32:
        raise InputError(f"--max-gib: must be at least 0, got {max_gib:g}")
    if max_gib is not None and action != "gc":
        raise InputError(f"--max-gib: belongs to `cache gc`, which removes segments; {action} removes none")
    if unused_days is not None and action != "gc":
        raise InputError(f"--unused-days: belongs to `cache gc`, which removes copies; {action} removes none")
    if unused_days is not None and unused_days < 1:
        raise InputError(f"--unused-days: must be at least 1, got {unused_days}")
    root = boundaries_folder()
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: must be a folder; move it away")
    removed = []
    if action == "gc":
        removed = collect_garbage(root, 2**62 if max_gib is None else int(max_gib * 2**30))
    if unused_days is not None:
        removed += remove_unused(unused_days)
    variants = stat(root, verify=action == "verify")
    damaged = [file for entry in variants for file in entry.damaged]
    if action == "verify" and damaged:
        raise InputError(f"{root}: damaged: {', '.join(damaged)}; `topgraft cache gc` removes what is damaged")
    return CacheReport(str(root), sum(entry.bytes for entry in variants), damaged, removed, variants, sizes())
