"""Checks of settings that several methods share, and ranges of blocks. Imports no jax."""

from __future__ import annotations

import math
import re

from backbone.errors import InputError

_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?")


def block_range(blocks: str, count: int) -> range:
    """Returns the block numbers that `blocks` selects from `count` blocks; raises InputError if there are none.

    `blocks` is in Python's slice notation: `""` all, `"4:"` from block 4 on, `"-2:"` the top two.
    """
    if blocks == "":
        return range(count)
    match = _SLICE.fullmatch(blocks)
    if not match:
        raise _no_slice(blocks)
    chosen = range(count)[slice(*(int(g) if g else None for g in match.groups()))]
    if not chosen:
        raise InputError(f"blocks: {blocks!r} selects none of the {count} blocks (0..{count - 1})")
    return chosen


def require_blocks(blocks: str) -> None:
    """Raises InputError unless `blocks` has the form of a slice, or is empty."""
    if blocks and not _SLICE.fullmatch(blocks):
        raise _no_slice(blocks)


def reaches_top(blocks: str) -> bool:
    """Returns whether a slice has no end, so that it selects the top block of every backbone."""
    return not blocks or blocks.endswith(":")


def _no_slice(blocks: str) -> InputError:
    return InputError(f"blocks: {blocks!r} is not a slice such as '4:', ':2', '-2:' or '' (all)")


def require_positive(**values: float) -> None:
    """Raises InputError naming the field whose value is not a positive, finite number."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{name}: must be a positive number, got {value}")


def require_fraction(**values: float) -> None:
    """Raises InputError naming the field whose value does not lie in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise InputError(f"{name}: must be at least 0 and below 1, got {value}")


def require_patterns(**patterns: tuple[str, ...]) -> None:
    """Raises InputError naming the field that holds no pattern."""
    for name, values in patterns.items():
        if not values:
            raise InputError(f"{name}: at least one pattern is needed")
