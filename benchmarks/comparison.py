"""Two benchmark reports side by side: what may be compared, and why the rest may not. Imports no jax.

    python -m benchmarks.report compare A.json B.json [--json] [--other-code]

| figures | are compared |
|---|---|
| ratios, scores, bytes | where settings, data and code are the same |
| seconds, rates | on one machine as well: same processor, instruction sets, cores and quota |
| joules | there, and where one counter or one model gives both |

With `--other-code` the code is what differs on purpose, so it forbids nothing. A figure differs where the ranges of
both sides do not meet; of single runs nobody knows that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backbone.errors import InputError
from backbone.records import decode, encode
from backbone.texts import load_json
from benchmarks.measures import Measure, Part

Verdict = Literal["compared", "not compared"]
BENCHMARK = "report"  # in the head of the file
NOTED = ("versions", "flags")  # parts of a provenance that forbid nothing
ORIGIN = ("machine", "code", "commit", "known_answers", "load", "versions", "flags")


@dataclass(frozen=True)
class Side:
    """One report."""

    file: str
    provenance: Mapping[str, Any]  # `benchmarks.results.Provenance` as JSON
    parts: Mapping[str, Part]  # by name


@dataclass(frozen=True)
class Row:
    """One figure of two reports."""

    part: str
    name: str
    unit: str
    first: float | None
    second: float | None
    verdict: Verdict
    reason: str  # why they are not compared; "" where they are
    ratio: float | None  # the second over the first, of figures that are compared
    differs: bool | None  # ranges do not meet; None: not compared, or no ranges


@dataclass(frozen=True)
class Comparison:
    """The comparison of two reports; `--json` prints it."""

    first: str  # files
    second: str
    one_machine: bool  # both reports are of one machine, or of two that cannot be told apart
    notes: tuple[str, ...]  # differences that forbid nothing, and what casts doubt on a side
    rows: tuple[Row, ...]

    @property
    def exit_status(self) -> int:
        """Returns 0, or 11 where nothing may be compared."""
        return 0 if any(row.verdict == "compared" for row in self.rows) else 11

    def table(self) -> str:
        """Returns the comparison for people: first what is compared, then the rest by reason."""
        lines = [f"A {self.first}", f"B {self.second}", *self.notes, ""]
        width = max((len(f"{row.part}: {row.name}") for row in self.rows), default=0)
        for row in self.rows:
            if row.verdict == "compared":
                said = {True: "differs", False: "ranges meet", None: ""}[row.differs]
                ratio = "" if row.ratio is None else f"B/A {row.ratio:.3f}"
                cells = f"{_cell(row.first)} {_cell(row.second)} {row.unit:<6} {ratio:<10} {said}"
                lines.append(f"{row.part + ': ' + row.name:<{width}} {cells}".rstrip())
        for reason in dict.fromkeys(row.reason for row in self.rows if row.reason):
            lines += ["", f"not compared, {reason}:"]
            lines += [f"  {row.part}: {row.name}" for row in self.rows if row.reason == reason]
        return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.5g'):>11}"


def read_report(path: str) -> Side:
    """Reads the JSON of a report; raises InputError for anything else."""
    remedy = "`make benchmark-report` writes one"
    try:
        content = load_json(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("benchmark") != BENCHMARK:
            raise InputError("its head does not name the benchmark 'report'")
        provenance = content["provenance"]
        if missing := [name for name in ORIGIN if name not in provenance]:
            raise InputError(f"its provenance lacks {', '.join(missing)}")
        parts = [decode(Part, one, f"parts[{number}]") for number, one in enumerate(content["parts"])]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {remedy}") from error
    except (KeyError, TypeError, ValueError) as error:  # an InputError is a ValueError
        raise InputError(f"{path}: no benchmark report ({error}); {remedy}") from error
    return Side(path, provenance, {part.name: part for part in parts})


def compare(first: Side, second: Side, *, other_code: bool = False) -> Comparison:
    """Returns every figure of both reports with its verdict, in the order of the first."""
    one_machine = first.provenance["machine"] == second.provenance["machine"]
    names = list(dict.fromkeys([*first.parts, *second.parts]))
    rows: list[Row] = []
    for name in names:
        sides = [side.parts.get(name, Part(name, {})) for side in (first, second)]
        absent = [letter for letter, side in zip("AB", (first, second), strict=True) if name not in side.parts]
        reason = f"since {absent[0]} has no such part" if absent else _forbidden(first, second, name, other_code)
        measures = [{measure.name: measure for measure in side.measures} for side in sides]
        for figure in dict.fromkeys([*measures[0], *measures[1]]):
            pair = measures[0].get(figure), measures[1].get(figure)
            rows.append(_row(name, pair, reason or _unlike(pair, one_machine)))
    return Comparison(first.file, second.file, one_machine, _notes(first, second, one_machine), tuple(rows))


def _forbidden(first: Side, second: Side, name: str, other_code: bool) -> str:
    """Returns why no figure of a part may be compared; "" where some may."""
    for letter, side in (("A", first), ("B", second)):
        if not str(side.provenance["known_answers"]).startswith("right"):
            return f"since known answers are wrong in {letter}: its compiler computes other programs"
    parts = first.parts[name], second.parts[name]
    if changed := _changed(parts[0].settings, parts[1].settings):
        return f"since settings differ: {changed}"
    if changed := _changed(parts[0].data, parts[1].data):
        return f"since data differ: {changed}"
    if not other_code and first.provenance["code"] != second.provenance["code"]:
        return "since the code differs: measure both on one commit, or pass --other-code if the code is the question"
    return ""


def _unlike(pair: tuple[Measure | None, Measure | None], one_machine: bool) -> str:
    """Returns why two figures may not be compared; "" where they may."""
    first, second = pair
    if first is None or second is None:
        return f"since {'A' if first is None else 'B'} lacks them"
    if (first.kind, first.unit) != (second.kind, second.unit):
        return "since their units differ"
    for letter, measure in (("A", first), ("B", second)):
        if measure.value is None:
            return f"since nobody measured them in {letter}"
    if first.kind in ("time", "rate", "joules") and not one_machine:
        word = "joules" if first.kind == "joules" else "seconds"
        return f"since {word} of different machines say nothing of a program"
    if first.kind == "joules" and first.source != second.source:
        return f"since their energy has different sources ({first.source}; {second.source})"
    return ""


def _row(part: str, pair: tuple[Measure | None, Measure | None], reason: str) -> Row:
    """Returns a figure of both sides."""
    one = next(measure for measure in pair if measure is not None)
    first, second = (None if measure is None else measure.value for measure in pair)
    if reason or first is None or second is None:
        return Row(part, one.name, one.unit, first, second, "not compared", reason, None, None)
    ratio = second / first if first else None
    return Row(part, one.name, one.unit, first, second, "compared", "", ratio, _differs(pair))


def _differs(pair: tuple[Measure | None, Measure | None]) -> bool | None:
    """Returns whether the ranges of two figures do not meet; None where one has no range."""
    sides = [one for one in pair if one is not None]
    if all(one.kind == "bytes" for one in sides):
        return len({one.value for one in sides}) > 1
    lows, highs = [one.low for one in sides if one.low is not None], [one.high for one in sides if one.high is not None]
    if len(lows) < len(pair) or len(highs) < len(pair):
        return None
    return max(lows) > min(highs)


def _notes(first: Side, second: Side, one_machine: bool) -> tuple[str, ...]:
    """Returns what a reader has to know beside the figures."""
    notes = ["one machine, or two that cannot be told apart" if one_machine else "two machines"]
    if not one_machine:
        notes.append(f"machine: {_changed(first.provenance['machine'], second.provenance['machine'])}")
    for name in NOTED:
        if changed := _changed(first.provenance[name], second.provenance[name]):
            notes.append(f"{name}: {changed}")
    for letter, side in (("A", first), ("B", second)):
        load, cores = float(side.provenance["load"]), side.provenance["machine"]["cores"]
        if load > cores / 2:
            notes.append(f"{letter} began under a load of {load:g} on {cores} cores: other work slowed its seconds")
    return tuple(notes)


def _changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Returns the keys whose values differ, with short values of both."""
    names = [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]
    return ", ".join(f"{name} {_short(first.get(name))} against {_short(second.get(name))}" for name in names)


def _short(value: Any) -> str:
    text = "none" if value is None else " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def main(arguments: Sequence[str]) -> int:
    """Compares two files, and returns the exit status: 0, 2 for bad input, 11 where nothing may be compared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report compare", description="Compares two reports.")
    parser.add_argument("files", nargs=2, metavar="FILE", help="the JSON of a report")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--other-code", action="store_true", help="the code differs on purpose")
    options = parser.parse_args(arguments)
    try:
        first, second = map(read_report, options.files)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = compare(first, second, other_code=options.other_code)
    print(json.dumps(encode(result), indent=1) if options.json else result.table())
    return result.exit_status
