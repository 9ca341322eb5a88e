"""Reports and their comparison: what may be compared, and why the rest may not; the page; bad files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import comparison
from benchmarks.comparison import Row, Side, compare, read_report
from benchmarks.measures import MEANINGS, Measure, Part, runs
from benchmarks.report_page import report_page
from benchmarks.report_parts import PARTS, energy, prepared
from benchmarks.results import Provenance, write
from metering.machine import Machine
from tests.browser import WIDTHS, needs_chromium, shown

HERE = Machine("a processor", ("avx", "avx2"), 2, None, "Linux x86_64")
ORIGIN = Provenance(HERE, 0.5, "sha256:1", "0" * 40, "2026-11-01", {"jax": "1"}, {}, {}, "right-0", {}, None)
MEASURES = (
    runs("pass", "time", "s", [0.10, 0.11, 0.12]),
    runs("speed over float32", "ratio", "times", [1.9, 2.0, 2.1]),
    Measure("accuracy", "score", "", 0.92, 0.91, 0.93),
    Measure("tensors", "bytes", "B", 1000.0),
    Measure("rows", "rate", "rows/s", 50.0),
    Measure("energy", "joules", "J", 12.0, 4.0, 30.0, "modelled: CPU seconds"),
)
PART = Part("probe", {"epochs": "2"}, {"train.csv": "abc"}, MEASURES, 3.0)
EVERY = {one.name for one in MEASURES}
ELSEWHERE = {"ratio", "score", "bytes"}  # kinds that compare between machines


def side(part: Part = PART, **changes) -> Side:
    return Side("file", json.loads(json.dumps(asdict(replace(ORIGIN, **changes)))), {part.name: part})


def row(result, name: str) -> Row:
    (found,) = (one for one in result.rows if one.name == name)
    return found


def names(result) -> set[str]:
    return {one.name for one in result.rows if one.verdict == "compared"}


def test_one_machine_compares_everything():
    result = compare(side(), side())
    assert names(result) == EVERY
    assert (result.one_machine, result.exit_status) == (True, 0)
    assert row(result, "pass").ratio == 1.0
    assert row(result, "pass").differs is False
    assert row(result, "tensors").differs is False
    assert row(result, "rows").differs is None, "nobody knows the range of a single run"


@pytest.mark.parametrize(
    "changes",
    [
        {"processor": "another"},
        {"cores": 4},
        {"quota": 1.0},
        {"instruction_sets": ("avx",)},
        {"system": "Linux aarch64"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_seconds_of_different_machines_do_not_compare(changes):
    result = compare(side(), side(machine=replace(HERE, **changes)))
    assert names(result) == {one.name for one in MEASURES if one.kind in ELSEWHERE}
    assert "seconds of different machines" in row(result, "pass").reason
    assert "joules of different machines" in row(result, "energy").reason
    assert next(iter(changes)) in result.notes[1]
    assert result.exit_status == 0


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (side(replace(PART, settings={"epochs": "3"})), "settings differ: epochs 2 against 3"),
        (side(replace(PART, data={"train.csv": "abd"})), "data differ: train.csv abc against abd"),
        (side(code="sha256:2"), "the code differs"),
        (side(known_answers="wrong-1"), "known answers are wrong in B"),
        (side(replace(PART, name="lora")), "B has no such part"),
    ],
    ids=["settings", "data", "code", "answers", "part"],
)
def test_what_forbids_a_whole_part(other, reason):
    result = compare(side(), other)
    assert not names(result)
    assert reason in result.rows[0].reason
    assert result.exit_status == 11
    assert reason in result.table()


def test_code_that_differs_on_purpose():
    assert names(compare(side(), side(code="sha256:2"), other_code=True)) == EVERY


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (replace(MEASURES[5], source="measured_counter: rapl"), "different sources"),
        (replace(MEASURES[5], value=None), "nobody measured them in B"),
        (replace(MEASURES[5], unit="Wh"), "units differ"),
        (None, "B lacks them"),
    ],
    ids=["source", "null", "unit", "absent"],
)
def test_a_single_figure_that_does_not_compare(measure, reason):
    measures = (*MEASURES[:5], *((measure,) if measure else ()))
    result = compare(side(), side(replace(PART, measures=measures)))
    assert names(result) == EVERY - {"energy"}
    assert reason in row(result, "energy").reason


def test_ranges_that_do_not_meet_are_a_difference():
    faster = (runs("pass", "time", "s", [0.05, 0.06]), *MEASURES[1:3], replace(MEASURES[3], value=1001.0))
    result = compare(side(), side(replace(PART, measures=faster)))
    assert (row(result, "pass").ratio, row(result, "pass").differs) == (pytest.approx(0.5), True)
    assert row(result, "accuracy").differs is False
    assert row(result, "tensors").differs is True
    assert "differs" in result.table()


def test_versions_flags_and_load_are_notes():
    result = compare(side(), side(versions={"jax": "2"}, flags={"OMP_NUM_THREADS": "1"}, load=1.5))
    assert names(result) == EVERY
    text = "\n".join(result.notes)
    for part in ("versions: jax 1 against 2", "flags: OMP_NUM_THREADS none against 1", "B began under a load of 1.5"):
        assert part in text


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Reports of two machines."""
    content = {"parts": [asdict(PART)], "seconds": 3.0, "limit_seconds": 1800.0}
    other = replace(ORIGIN, machine=replace(HERE, cores=4))
    return [str(write("report", content, one, tmp_path / one.machine.system / str(one.machine.cores)))
            for one in (ORIGIN, other)]  # fmt: skip


def test_the_command(files, capsys):
    assert comparison.main(files) == 0
    assert "not compared, since seconds of different machines" in capsys.readouterr().out
    assert comparison.main([*files, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in result["rows"]} == EVERY
    assert read_report(files[0]).parts == {"probe": PART}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "No such file"),
        (lambda content: "{", "no benchmark report"),
        (lambda content: json.dumps(content | {"benchmark": "fleet"}), "does not name the benchmark"),
        (lambda content: json.dumps({k: v for k, v in content.items() if k != "parts"}), "'parts'"),
        (lambda content: json.dumps(content | {"provenance": {}}), "provenance lacks machine, code"),
        (lambda content: json.dumps(content | {"parts": [{"name": 3}]}), "parts[0]"),
    ],
    ids=["absent", "no JSON", "another benchmark", "no parts", "no provenance", "a damaged part"],
)
def test_what_is_no_report_is_refused(change, message, files, capsys):
    path = Path(files[1])
    if change is None:
        path.unlink()
    else:
        path.write_text(change(json.loads(path.read_text())))
    assert comparison.main(files) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert "make benchmark-report" in error


def test_the_page_holds_every_figure_and_needs_no_network():
    page = report_page([PART, replace(PART, name="<b>")], asdict(ORIGIN), 90.0)
    for text in (*EVERY, "a processor", "none", "sha256:1", "right-0", "1.5", "epochs=2", "&lt;b&gt;", *MEANINGS):
        assert text in page
    assert "http" not in page
    assert "<script" not in page


@needs_chromium
def test_the_page_in_a_browser(tmp_path):
    page = tmp_path / "report.html"
    sets = tuple(f"avx512_{number}" for number in range(40))
    origin = replace(
        ORIGIN,
        machine=replace(HERE, instruction_sets=sets),
        versions={f"package{number}": "1.2.3" for number in range(20)},
    )
    page.write_text(report_page([PART, replace(PART, settings={"config": "x" * 300})], asdict(origin), 90.0))
    for width in WIDTHS:
        shown(page.as_uri(), tmp_path, width, "benchmark")


def test_energy_of_phases_of_two_qualities_has_no_sum():
    counted = {"quality": "measured_counter", "value": 2.0, "low": None, "high": None, "source": "rapl"}
    modelled = {"quality": "modelled", "value": 3.0, "low": 1.0, "high": 9.0, "source": "CPU seconds"}
    assert energy([counted, counted], "e") == Measure("e", "joules", "J", 4.0, source="measured_counter: rapl")
    both = energy([modelled, modelled], "e")
    assert (both.value, both.low, both.high) == (6.0, 2.0, 18.0)
    assert energy([counted, modelled], "e").value is None
    assert "modelled" in energy([counted, modelled], "e").source


def test_rows_are_copied_with_plain_columns(tmp_path):
    (tmp_path / "data" / "banking77").mkdir(parents=True)
    for name in ("train.csv", "test.csv"):
        (tmp_path / "data" / "banking77" / name).write_text('text,category\n"a, b",card\nc,cash\n')
    place = prepared(tmp_path, tmp_path / "data")
    assert place.train.read_text().splitlines() == ["text,label", '"a, b",card', "c,cash"]
    assert set(place.data) == {"train.csv", "test.csv"}
    with pytest.raises(FileNotFoundError):
        prepared(tmp_path, tmp_path / "nowhere")
    assert list(PARTS) == ["passes", "probe", "lora", "retraining", "server"]
