"""The form of a training step that a budget of memory allows, chosen before the first step.

A batch may run in parts, one after another, whose gradients are summed, weighted by their rows: the same gradient up to
rounding, in the activations of one part. Blocks may be computed again in the backward pass, which keeps one activation
a block for about a third more operations. Parts come first, since they cost no operations.

What a step takes is what the compiler plans for its temporaries, and on a CPU the scratch of products, which the
compiler does not count. Beside it stands what is resident before the first step: libraries, weights, rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError
from backbone.files import write_durable
from backbone.records import decode, encode
from backbone.texts import parse_json, read_text
from metering.window import on_accelerator, window

MB = 1e6
FORM = "step_form.json"  # form of the steps of a run, in its folder
COMPILING = 150e6  # bytes that a compilation takes beside what is resident, on a CPU
WIDTHS = 13  # scratch of products on a CPU, in rows of the widest layer for each token
PROGRAM = 15e6  # bytes that a compiled program keeps, on a CPU
SCRATCH_TOKENS = 4096  # tokens from which on the scratch grows no further


@dataclass(frozen=True)
class StepForm:
    """The way that a step goes over its batch."""

    parts: int = 1  # parts of the batch, one after another
    remat: bool = False  # each block is computed again in the backward pass


@dataclass(frozen=True)
class MemoryPlan:
    """The form that a budget allows, and the figures that chose it; `plan --json` prints it."""

    form: StepForm
    resident_mb: float  # memory before the first step, above the level after imports
    step_mb: float  # what the largest step takes
    pass_mb: float  # what a forward pass over held-out rows takes
    max_mb: float  # the budget

    @property
    def needed_mb(self) -> float:
        """Returns the predicted peak."""
        return self.resident_mb + max(self.step_mb, self.pass_mb)

    def __str__(self) -> str:
        again = ", blocks computed again" if self.form.remat else ""
        return f"{self.form.parts} parts of a batch{again}: {self.needed_mb:.0f} MB of {self.max_mb:.0f}"


def forms(rows: int, remat: bool) -> tuple[StepForm, ...]:
    """Returns the forms of a step on `rows` rows, from the cheapest to the smallest."""
    parts = [count for count in range(1, rows + 1) if rows % count == 0]
    plain = [] if remat else [StepForm(count, False) for count in parts]
    return (*plain, *(StepForm(count, True) for count in parts[-1 if plain else 0 :]))


def kept(folder: Path, choose: Callable[[], StepForm]) -> StepForm:
    """Returns the form of the run in `folder`, which is chosen once.

    A resumed run may find less memory free, and another form gives other last bits.
    """
    file = folder / FORM
    if file.exists():
        return decode(StepForm, parse_json(read_text(file), str(file)), str(file))
    form = choose()
    folder.mkdir(parents=True, exist_ok=True)
    write_durable(file, json.dumps(encode(form)).encode())
    return form


def resident_bytes() -> int:
    """Returns the memory of this process above its level after imports, or what a device holds.

    Raises InputError where nothing tells it.
    """
    if on_accelerator():
        import jax

        if stats := jax.local_devices()[0].memory_stats():
            return int(stats["bytes_in_use"])
    with window("resident") as now:
        pass
    if now.peak_bytes is None:
        raise InputError("plan.max_memory_mb: nothing tells the memory of a process here; leave it out")
    return now.peak_bytes


def scratch_bytes(width: int, tokens: int) -> int:
    """Returns the bytes that products take beside the compiler's count; `width` is that of the widest layer."""
    return 0 if on_accelerator() else 4 * WIDTHS * width * min(tokens, SCRATCH_TOKENS)


def program_bytes(count: int) -> int:
    """Returns the bytes that so many compiled programs keep."""
    return 0 if on_accelerator() else round(PROGRAM * count)


def chosen(
    options: Sequence[StepForm], step_bytes: Callable[[StepForm], int], pass_bytes: int, max_mb: float
) -> MemoryPlan:
    """Returns the first form that the budget allows; `step_bytes` falls from option to option.

    Raises InputError where none is small enough.
    """
    least = 0 if on_accelerator() else COMPILING

    def planned(form: StepForm) -> MemoryPlan:
        step = max(least, step_bytes(form))  # compiled before the resident memory is read
        return MemoryPlan(form, resident_bytes() / MB, step / MB, pass_bytes / MB, max_mb)

    low, high = 0, len(options) - 1
    plans: dict[int, MemoryPlan] = {}
    while low < high:
        middle = (low + high) // 2 if plans else 0
        plans[middle] = planned(options[middle])
        if plans[middle].needed_mb <= max_mb:
            high = middle
        else:
            low = middle + 1
    plan = plans[low] if low in plans else planned(options[low])
    if plan.needed_mb > max_mb:
        larger = "a pass over held-out rows" if plan.pass_mb > plan.step_mb else "the smallest step"
        raise InputError(
            f"plan.max_memory_mb: {max_mb:.0f} is below the floor of this run, {plan.needed_mb:.0f} MB: "
            f"{plan.resident_mb:.0f} are taken before the first step, and {larger} takes "
            f"{max(plan.step_mb, plan.pass_mb):.0f}; raise it, or lower data.max_tokens"
        )
    return plan
