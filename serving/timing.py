"""Seconds of a server's compiled pieces on this machine, and what a row of a graft costs by each submodel.

Each piece (embedding, blocks between two stops, suffix of a group, segments of split groups) is timed in one batch
shape: the largest batch, in the shortest bucket of at least 32 tokens. A row in full runs through the blocks below its
group and the suffix. With early exits it runs through each piece with the share of the calibration rows that is still
there. So shares are certified and seconds measured, and nothing is assumed of either.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from adapters.artefact.exits import Exits
from serving.ladder import FULL, Option
from serving.programs import Programs

TOKENS = 32  # tokens of the timed bucket, at least, where there is one so long
TIMED = 5  # calls of each piece, of which the median counts; one more comes before


@dataclass(frozen=True)
class Timings:
    """Seconds of a row in each compiled piece."""

    bucket: int  # tokens
    rows: int  # rows of the batch
    embed: float
    blocks: dict[int, float]  # by the boundary where the blocks begin
    suffix: tuple[float, ...]  # by group
    segments: dict[tuple[int, int], float]  # by group and the boundary where the segment begins
    rest: dict[int, float]  # by group
    pool: float  # seconds of the mean over tokens; 0 where nothing is split


def timed(programs: Programs) -> Timings:
    """Times every piece; only the device thread may call it."""
    rows = programs.sizes[-1]
    bucket = next((bucket for bucket in programs.buckets if bucket >= TOKENS), programs.buckets[-1])
    mask, slots = np.ones((rows, bucket), bool), np.zeros(rows, np.int32)
    ids = np.full((rows, bucket), programs.backbone.preprocessing.fill, np.int32)
    states = programs.prefix(ids, mask, programs.stops)

    def each(piece: Callable[..., Any], *arguments: Any) -> float:
        times = []
        for _ in range(TIMED + 1):
            start = time.perf_counter()
            jax.tree.map(np.asarray, piece(*arguments))
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:]) / rows

    segments, rest, suffix = {}, {}, []
    for group, splits in enumerate(programs.splits):
        needed = {boundary: states[boundary] for boundary in programs.needs[group]}
        suffix.append(each(programs.suffix, group, needed, mask, slots))
        for start in (programs.banks[group].start, *splits[:-1]) if splits else ():
            segments[group, start] = each(programs.segment, group, start, states[start], mask, slots)
        if splits:
            rest[group] = each(programs.rest, group, states[splits[-1]], mask, slots)
    return Timings(
        bucket,
        rows,
        each(programs.embed, ids),
        {start: each(programs.block, start, states[start], mask) for start in programs.stops[:-1]},
        tuple(suffix),
        segments,
        rest,
        each(programs.pool, states[0], mask) if programs.exits else 0.0,
    )


def options_of(timings: Timings, programs: Programs, group: int, exits: Exits | None) -> tuple[Option, ...]:
    """Returns what a row of a graft costs and loses in full, and by its `exits` where they are usable."""
    top = max(programs.needs[group])
    seconds = timings.embed + sum(spent for start, spent in timings.blocks.items() if start < top)
    full = Option(FULL, seconds + timings.suffix[group], 0.0)
    if exits is None:
        return (full,)
    return full, Option("exits", _early_seconds(timings, programs, group, exits), exits.losses / exits.rows)


def _early_seconds(timings: Timings, programs: Programs, group: int, exits: Exits) -> float:
    """Returns the mean seconds of a row that leaves at its exits as the calibration rows do."""
    left = dict(zip(exits.boundaries, exits.left, strict=True))
    start, splits = programs.banks[group].start, programs.splits[group]
    seconds, alive = timings.embed, 1.0
    for boundary in programs.stops:
        if boundary in left:
            seconds, alive = seconds + alive * timings.pool, alive - left[boundary]
        if boundary >= start:
            break
        seconds += alive * timings.blocks[boundary]
    if not any(boundary in left for boundary in splits):
        return seconds + alive * timings.suffix[group]
    for below, boundary in itertools.pairwise((start, *splits)):
        seconds += alive * timings.segments[group, below]
        alive -= left.get(boundary, 0.0)
    return seconds + alive * timings.rest[group]
