"""The base of freezing schedules, and their spelling: `top(2)` is the schedule `top` with its first field 2.

A stage is static: blocks from `boundary` on are live, those below run forward only or come from the cache.
Boundary L means that only the head is live. Stages end on optimiser steps. A schedule says where stages end and
which boundary each has; a dynamic one leaves a boundary open and decides when the stage begins. Imports no jax.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from backbone.errors import InputError
from backbone.records import Raw, decode
from backbone.variants.registered import VARIANTS, Registered, UnknownVariant, named_variants, variant, variants

_SPELLING = re.compile(r"(\w+)(?:\((.*)\))?")


@dataclass(frozen=True)
class RunShape:
    """The run that a schedule is laid over."""

    blocks: int  # number of blocks L
    epoch_ends: tuple[int, ...]  # micro-batches done at the end of each epoch; the last is the end of the run
    epochs: float  # passes over the train rows; the last may be a part
    accumulate: int  # micro-batches per optimiser step

    @property
    def total(self) -> int:
        """Returns the number of micro-batches of the run."""
        return self.epoch_ends[-1]

    def rounded(self, step: float) -> int:
        """Returns the micro-batches up to the end of the optimiser step that holds `step`, at most the run's."""
        return min(self.total, math.ceil(step / self.accumulate - 1e-9) * self.accumulate)

    def at_epoch(self, epoch: float) -> float:
        """Returns the micro-batches up to `epoch`, which may be a fraction."""
        whole = min(len(self.epoch_ends) - 1, int(epoch))
        before = self.epoch_ends[whole - 1] if whole else 0
        length = (self.epoch_ends[whole] - before) / min(1.0, self.epochs - whole)
        return before + (epoch - whole) * length


@dataclass(frozen=True)
class Span:
    """A stage in micro-batches."""

    boundary: int | None  # first live block; None: the schedule decides when the stage begins
    until: int  # micro-batches done when the stage ends


class Schedule(Registered, by="schedule", folder="trainers.freezing", needs=("spans",), words=("auto",)):
    """A freezing schedule. A variant overrides `spans`; the rest has defaults."""

    spelled: ClassVar[bool] = True  # can be written as text in `plan.stages`
    signal: ClassVar[Literal["", "gradient"]] = ""  # sums that the loop keeps for `decide`

    @classmethod
    def misses(cls) -> Iterator[str]:
        if cls.signal and cls.decide is Schedule.decide:
            yield "decide is missing: it has a signal, and nothing decides by it"

    @classmethod
    def example(cls) -> Self:
        """Returns settings that fit a backbone of three blocks, on which the test suite of all schedules runs."""
        return cls()

    def spans(self, shape: RunShape) -> tuple[Span, ...]:
        """Returns the stages of a run, in order, up to its end; raises InputError where the schedule fits no run."""
        raise NotImplementedError

    def first_adapted(self, blocks: int) -> int:
        """Returns the lowest block that is ever live: blocks below it get no adapter."""
        return 0

    def decide(self, before: Sequence[float], after: Sequence[float], boundary: int) -> int:
        """Returns the boundary of a stage that `spans` left open.

        `before` and `after` hold the signal of the last two stages, one figure for each block from `boundary` on.
        """
        raise NotImplementedError

    def priced_as(self, shape: RunShape) -> tuple[Span, ...]:
        """Returns the stages that a price is made for: an open boundary counts as every block live."""
        return tuple(Span(span.boundary or 0, span.until) for span in self.spans(shape))

    def warm_blocks(self, default: int) -> int:
        """Returns how many top blocks a warm start trains."""
        return default


def spellings() -> tuple[str, ...]:
    """Returns the spelling of each schedule: `all`, `top(k)`, ..."""
    return tuple(_spelling(tag, kind) for tag, kind in variants(Schedule).items() if kind.spelled)


def _spelling(tag: str, kind: type[Schedule]) -> str:
    names = ", ".join(map(_written, dataclasses.fields(kind)))  # type: ignore[arg-type]
    return f"{tag}({names})" if names else tag


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    """Returns whether a value must be written; fields with a default may be left out, from the last one on."""
    return field.default is dataclasses.MISSING


def _written(field: dataclasses.Field[Any]) -> str:
    return field.name if _is_needed(field) else f"{field.name}={field.default}"


def _takes(fields: Sequence[dataclasses.Field[Any]]) -> str:
    return f"takes {', '.join(map(_written, fields))}" if fields else "takes no values"


def parse(text: str) -> Schedule:
    """Returns the schedule that `text` spells; raises InputError that lists the known ones."""
    match = _SPELLING.fullmatch(text)
    try:
        kind = variant(Schedule, match[1]) if match else None
    except UnknownVariant:
        raise InputError(
            f"{text!r} is none of {', '.join(spellings())}, auto; or a list; a schedule of your own needs the script "
            f"or module that defines it: import it first, or name it in {VARIANTS}{named_variants()}"
        ) from None
    if match is None or kind is None or not kind.spelled:
        raise InputError(f"{text!r} is none of {', '.join(spellings())}, auto; or a list")
    values = [part.strip() for part in match[2].split(",")] if match[2] else []
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    if not sum(map(_is_needed, fields)) <= len(values) <= len(fields):
        raise InputError(f"{text}: {_takes(fields)}; got {len(values)} value{'' if len(values) == 1 else 's'}")
    try:
        return decode(kind, {field.name: Raw(value) for field, value in zip(fields, values, strict=False)})
    except InputError as error:
        raise InputError(f"{text}: {error}") from None
