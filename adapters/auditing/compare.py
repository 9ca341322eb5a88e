"""Two records of a machine side by side: what has changed, and what of it is a loss. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from adapters.auditing.record import MachineAudit
from adapters.machine import MachineRecord
from metering.libraries import ProductUse
from metering.speeds import ProgramSpeed, is_slower, lost

Kind = Literal[
    "answer", "slower", "library", "program", "processor", "cores", "quota", "system", "backend",
    "flag", "version", "licence", "threads", "governor", "joules",
]  # fmt: skip
LOSSES = ("answer", "slower", "library")  # kinds that end an audit with status 10
ABSENT = "none"
UNSTEADY = "its rounds lie too far apart to notice a loss; write the baseline again on a quiet machine"


@dataclass(frozen=True)
class Difference:
    """One thing that is otherwise than in the baseline."""

    kind: Kind
    name: str  # program, package, variable, ...
    before: str
    now: str

    @property
    def is_loss(self) -> bool:
        """Returns whether the machine computes wrongly, more slowly, or by another library than before."""
        return self.kind in LOSSES

    def __str__(self) -> str:
        return f"{'LOST   ' if self.is_loss else 'changed'} {self.kind}: {self.name}: {self.before} -> {self.now}"


def speeds_compare(before: MachineRecord, now: MachineRecord) -> bool:
    """Returns whether speeds may be compared: both records are of one kind of processor and one backend."""
    return (before.machine.processor, before.backend) == (now.machine.processor, now.backend)


def libraries_compare(before: MachineRecord, now: MachineRecord) -> bool:
    """Returns whether libraries may be compared: both records are of equal instruction sets and one backend."""
    sides = [(set(one.machine.instruction_sets), one.backend) for one in (before, now)]
    return sides[0] == sides[1]


def uncompared(before: MachineRecord, now: MachineRecord, *, libraries: bool = False) -> tuple[str, ...]:
    """Returns a sentence for whatever cannot be compared with the baseline `before`. Both records hold an audit."""
    assert before.audit is not None
    assert now.audit is not None
    if not (libraries_compare if libraries else speeds_compare)(before, now):
        what, other = ("libraries", "instruction sets") if libraries else ("speeds", "processor")
        return (f"{what} are not compared: the baseline is of another {other} or backend",)
    known, measured = _programs(before.audit), _programs(now.audit)
    if not known.keys() & measured.keys():
        return ("no program of the baseline is measured here: write the baseline again",)
    unsteady = () if libraries else unsteady_programs(before.audit)
    return tuple(f"{name}: {UNSTEADY}" for name in unsteady if name in measured)


def unsteady_programs(audit: MachineAudit) -> tuple[str, ...]:
    """Returns the names of the programs whose rounds lie so far apart that no loss would be noticed."""
    return tuple(one.program for one in audit.programs if not one.steady)


def differences(before: MachineRecord, now: MachineRecord, *, libraries: bool = False) -> tuple[Difference, ...]:
    """Returns everything that has changed since the baseline `before`, losses first. Both records hold an audit.

    With `libraries` speeds are left out, so that the baseline may be of another processor.
    """
    assert before.audit is not None
    assert now.audit is not None
    same_speeds = speeds_compare(before, now)
    same_libraries = libraries_compare(before, now) if libraries else same_speeds
    listed = [
        *_answers(before, now),
        *(_slower(before.audit, now.audit) if same_speeds and not libraries else ()),
        *(_products(before.audit, now.audit) if same_libraries else ()),
        *_hardware(before, now),
        *_changed("flag", before.flags, now.flags),
        *_packages(before.audit, now.audit),
        *_changed("threads", _threads(before.audit), _threads(now.audit)),
        *_changed("governor", {"governors": _governors(before.audit)}, {"governors": _governors(now.audit)}),
        *_changed("joules", _joules(before), _joules(now)),
    ]
    return tuple(sorted(listed, key=lambda one: not one.is_loss))


def slower_programs(before: MachineAudit, programs: tuple[ProgramSpeed, ...]) -> set[str]:
    """Returns the names of the programs that have lost more than the baseline's spread explains."""
    known = {one.program: one for one in before.programs}
    return {one.program for one in programs if one.program in known and is_slower(known[one.program], one)}


def _answers(before: MachineRecord, now: MachineRecord) -> Iterator[Difference]:
    was_wrong = {answer.program for answer in before.wrong}
    for answer in now.wrong:
        if answer.program not in was_wrong:
            size = answer.problem or f"{answer.difference:.2g} where {answer.allowed:.2g} is allowed"
            yield Difference("answer", answer.program, "right", f"wrong: {size}")


def _slower(before: MachineAudit, now: MachineAudit) -> Iterator[Difference]:
    known, measured = _programs(before), _programs(now)
    for name in known.keys() & measured.keys():
        first, second = known[name], measured[name]
        if is_slower(first, second):
            share = f"{lost(first, second):.0%} lost, {first.allowed_loss:.0%} allowed"
            yield Difference("slower", name, f"{first.ms:.2f} ms", f"{second.best_ms:.2f} ms ({share})")


def _products(before: MachineAudit, now: MachineAudit) -> Iterator[Difference]:
    known, measured = _programs(before), _programs(now)
    for name in known.keys() & measured.keys():
        if known[name].products != measured[name].products:
            yield Difference("library", name, *_apart(known[name].products, measured[name].products))
    for name in sorted(known.keys() ^ measured.keys()):
        side = ("measured", ABSENT) if name in known else (ABSENT, "measured")
        yield Difference("program", name, *side)


def _programs(audit: MachineAudit) -> dict[str, ProgramSpeed]:
    return {one.program: one for one in audit.programs}


def _apart(first: tuple[ProductUse, ...], second: tuple[ProductUse, ...]) -> tuple[str, str]:
    """Returns the products that only one of two programs has, as text for each."""
    sides = (set(first) - set(second), set(second) - set(first))
    texts = (sorted(f"{one.library} {one.count} x {one.shape}" for one in side) for side in sides)
    before, now = (", ".join(text) or ABSENT for text in texts)
    return before, now


def _hardware(before: MachineRecord, now: MachineRecord) -> Iterator[Difference]:
    pairs: tuple[tuple[Kind, str, str, str], ...] = (
        ("processor", "processor", before.machine.processor, now.machine.processor),
        ("processor", "instruction sets", _sets(before), _sets(now)),
        ("cores", "usable processors", str(before.machine.cores), str(now.machine.cores)),
        ("quota", "control group", _quota(before), _quota(now)),
        ("system", "system", before.machine.system, now.machine.system),
        ("backend", "backend", before.backend, now.backend),
    )
    for kind, name, first, second in pairs:
        if first != second:
            yield Difference(kind, name, first, second)


def _sets(record: MachineRecord) -> str:
    return " ".join(record.machine.instruction_sets)


def _quota(record: MachineRecord) -> str:
    quota = record.machine.quota
    return ABSENT if quota is None else f"{quota:g} processors"


def _changed(kind: Kind, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(before.keys() | now.keys()):
        first, second = before.get(name, ABSENT), now.get(name, ABSENT)
        if first != second:
            yield Difference(kind, name, first, second)


def _packages(before: MachineAudit, now: MachineAudit) -> Iterator[Difference]:
    first, second = ({one.name: one for one in audit.surroundings.packages} for audit in (before, now))
    yield from _changed(
        "version",
        {name: one.version for name, one in first.items()},
        {name: one.version for name, one in second.items()},
    )
    for name in sorted(first.keys() & second.keys()):
        if first[name].licence != second[name].licence:
            yield Difference("licence", name, first[name].licence or ABSENT, second[name].licence or ABSENT)


def _threads(audit: MachineAudit) -> dict[str, str]:
    pool = {} if audit.surroundings.pool is None else {"threads for products": str(audit.surroundings.pool)}
    return {**audit.surroundings.threads, **pool}


def _governors(audit: MachineAudit) -> str:
    return ", ".join(audit.surroundings.governors) or ABSENT


def _joules(record: MachineRecord) -> dict[str, str]:
    return {source.name.partition(",")[0]: source.state for source in record.joules}
