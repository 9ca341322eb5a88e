"""`topgraft machine --audit`: the record of this machine with the speeds of our programs, beside a baseline.

    report = audit_machine(baseline="machine.json")
    report.differences, report.exit_status

A program that seems slower than the baseline is measured again, since other work on the machine may be the reason.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from adapters.auditing.compare import (
    UNSTEADY,
    Difference,
    differences,
    slower_programs,
    speeds_compare,
    uncompared,
    unsteady_programs,
)
from adapters.auditing.programs import Sizes, compiled_programs, measured_peaks, measured_speeds
from adapters.auditing.record import MachineAudit
from adapters.machine import MachineRecord, joule_sources, keep_record, machine_record
from backbone.errors import InputError, shown
from backbone.files import write_durable
from backbone.home import use_compilation_cache
from backbone.records import decode, encode
from backbone.texts import load_json, read_text
from metering.speeds import joined
from metering.surroundings import surroundings

log = logging.getLogger(__name__)

SIZES = Sizes()
REPEATS = 3  # further measurements of a program that seems slower
PAUSE = 2.0  # seconds before each of them


@dataclass(frozen=True)
class MachineReport:
    """The result of `topgraft machine --audit`; `--json` prints it."""

    record: MachineRecord
    baseline: str  # file; "" without one
    comparable: bool  # everything may be compared with the baseline; True without one
    differences: tuple[Difference, ...]  # from the baseline, losses first
    uncompared: tuple[str, ...] = ()  # what cannot be compared with the baseline, and why
    written: str = ""  # file of the baseline that was written; "" for none

    @property
    def exit_status(self) -> int:
        """Returns 10 for a loss or a wrong answer, 11 where something cannot be compared with the baseline, else 0."""
        if self.record.wrong or any(one.is_loss for one in self.differences):
            return 10
        return 0 if self.comparable else 11

    def table(self) -> str:
        """Returns the record, and what differs from the baseline, for people."""
        lines = [self.record.table()]
        if self.baseline:
            lines.append(f"baseline:          {self.baseline}: {len(self.differences)} differences")
            lines += [f"  {one}" for one in (*self.differences, *self.uncompared)]
        if self.written and self.record.audit is not None:
            lines.append(f"written:           {self.written}: a baseline of {len(self.record.audit.programs)} programs")
        return "\n".join(lines)


def audit_machine(
    *,
    baseline: str | None = None,
    write_baseline: str | None = None,
    again: bool = False,
    rounds: int = 7,
    libraries: bool = False,
    sizes: Sizes = SIZES,
) -> MachineReport:
    """Measures this machine, keeps the audit in its record, and compares it with a baseline file.

    `write_baseline` names a file that gets the record. `libraries` leaves out speeds, for a baseline of another
    machine. Raises InputError for a file that is no baseline.
    """
    before = None if baseline is None else read_baseline(Path(baseline))
    if write_baseline is not None and not Path(write_baseline).resolve().parent.is_dir():
        raise InputError(f"--write-baseline: {Path(write_baseline).parent}: no such folder; make it first")
    record = machine_record(again=again)
    use_compilation_cache()
    record = replace(
        record, joules=joule_sources(), audit=measured_audit(None if libraries else before, record, rounds, sizes)
    )
    keep_record(record)
    if write_baseline is not None:
        write_durable(Path(write_baseline), json.dumps(encode(record), indent=1).encode())
        assert record.audit is not None
        for name in unsteady_programs(record.audit):
            log.warning("%s: %s: %s", write_baseline, name, UNSTEADY)
    written = write_baseline or ""
    if before is None:
        return MachineReport(record, "", True, (), written=written)
    reasons = uncompared(before, record, libraries=libraries)
    changed = differences(before, record, libraries=libraries)
    return MachineReport(record, str(baseline), not reasons, changed, reasons, written)


def read_baseline(path: Path) -> MachineRecord:
    """Reads the record that `--write-baseline` wrote; raises InputError for anything else."""
    remedy = "write one with `topgraft machine --audit --write-baseline FILE`"
    try:
        record = decode(MachineRecord, load_json(read_text(path)), str(path))
    except OSError as error:
        raise InputError(f"--baseline: {path}: {error.strerror}; {remedy}") from error
    except ValueError as error:  # an InputError is a ValueError
        raise InputError(f"--baseline: {path}: no record of a machine ({error}); {remedy}") from error
    if record.audit is None:
        raise InputError(f"--baseline: {path}: a record without an audit; {remedy}")
    names = [one.program for one in record.audit.programs]
    if not names or len(set(names)) < len(names):
        raise InputError(f"--baseline: {path}: its programs are not listed once each; {remedy}")
    for one in record.audit.programs:
        if one.ms <= 0 or one.best_ms <= 0 or one.spread < 0:
            raise InputError(
                f"--baseline: {path}: {shown(one.program)}: a time above 0 and a spread from 0 are expected, got "
                f"{one.ms!r} ms, at best {one.best_ms!r} ms, spread {one.spread!r}; {remedy}"
            )
    return record


def measured_audit(before: MachineRecord | None, now: MachineRecord, rounds: int, sizes: Sizes) -> MachineAudit:
    """Compiles and times the programs; those that seem slower than in `before` are timed again."""
    load = None
    with contextlib.suppress(OSError, AttributeError):  # not every system has one
        load = round(os.getloadavg()[0], 2)
    programs = compiled_programs(sizes)
    peaks = measured_peaks(programs)
    speeds = measured_speeds(programs, peaks, rounds)
    if before is not None and before.audit is not None and speeds_compare(before, now):
        for _ in range(REPEATS):
            if not (slow := slower_programs(before.audit, speeds)):
                break
            time.sleep(PAUSE)
            once_more = [program for program in programs if program.work.program in slow]
            repeated = {one.program: one for one in measured_speeds(once_more, peaks, rounds)}
            speeds = tuple(joined(one, repeated.get(one.program, one)) for one in speeds)
    return MachineAudit(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        load=load,
        rounds=rounds,
        surroundings=surroundings(),
        peaks=tuple(peaks.values()),
        programs=speeds,
    )
