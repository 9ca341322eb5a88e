"""The audit of a machine: what it records, and every kind of fault that a baseline brings to light."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest

import topgraft
from adapters import machine
from adapters.auditing import audit, compare, programs
from adapters.auditing.audit import MachineReport, audit_machine
from adapters.auditing.programs import Sizes
from adapters.machine import JouleSource, MachineRecord, machine_record
from backbone.compiler_flags import jaxlib_version, needed
from backbone.errors import InputError
from backbone.home import machines_folder
from metering import energy, surroundings
from metering.known_answers.program import Answer
from metering.roofline import Roofline

ROOT = Path(__file__).resolve().parents[2]
SMALL = Sizes(blocks=1, width=32, heads=2, mlp_width=64, rows=4, tokens=16, vocabulary=64)


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory):
    """A home whose record no other test reads, and ceilings that are given: `docs/machines.md` measures them."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(machines_folder(), folder / "machines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPGRAFT_HOME", str(folder))
        patch.setattr(programs, "measure", lambda factors: Roofline(1e11, 1e10))
        patch.setattr(audit, "PAUSE", 0.0)
        yield


def audited(folder: Path, **options) -> MachineReport:
    return audit_machine(baseline=str(folder / "baseline.json"), rounds=3, sizes=SMALL, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a baseline of this machine, under a steady clock."""
    folder = tmp_path_factory.mktemp("baseline")
    with pytest.MonkeyPatch.context() as patch:
        steady(patch)
        report = audit_machine(write_baseline=str(folder / "baseline.json"), rounds=3, sizes=SMALL)
    assert (report.exit_status, report.differences) == (0, ())
    return folder


def steady(patch: pytest.MonkeyPatch, slow: str = "", times: float = 1.0) -> None:
    """Runs every program, and says that it took a millisecond; one that is `slow` takes as many `times` as long."""

    def seconds(run) -> float:
        jax.block_until_ready(run())
        return 1e-3

    def speed_of(work, seconds, peaks):
        slower = [one * (times if slow and slow in work.program else 1.0) for one in seconds]
        return programs_speed_of(work, slower, peaks)

    patch.setattr(programs, "_seconds", seconds)
    patch.setattr(programs, "speed_of", speed_of)


programs_speed_of = programs.speed_of


def kinds(report: MachineReport) -> set[str]:
    return {one.kind for one in report.differences}


def test_an_audit_is_part_of_the_record(folder, monkeypatch, capsys):
    steady(monkeypatch)
    report = audited(folder)
    assert (kinds(report), report.exit_status) == (set(), 0)
    assert machine.remembered() == report.record, "one record for each machine"
    result = report.record.audit
    assert result is not None
    assert {one.factors for one in result.programs} == {"float32", "bfloat16", "int8"}
    for one in result.programs:
        assert one.products
        assert one.gflops > 0
        assert one.attainable_gflops <= 100
    assert "jaxlib" in {package.name for package in result.surroundings.packages}
    text = report.table()
    for part in ("GFLOP/s", "of attainable", "packages:", "governors:", "threads:", "0 differences"):
        assert part in text
    assert topgraft.main(["machine"]) == 0
    assert result.programs[0].program in capsys.readouterr().out


def faulty(name: str, patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Plants a fault."""
    files = {
        "governor": ("cpu0/cpufreq/scaling_governor", "powersave\n"),
        "quota": ("cpu.max", "50000 100000\n"),
        "version": ("optax-0.0.1.dist-info/METADATA", "Name: optax\nVersion: 0.0.1\n"),
        "licence": ("tqdm-9.dist-info/METADATA", "Name: tqdm\nVersion: 9\nLicense-Expression: BUSL-1.1\n"),
    }
    if name in files:
        path, text = files[name]
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    if name == "governor":
        patch.setattr(surroundings, "governors", functools.partial(surroundings.governors, folder))
    elif name == "quota":
        patch.setattr("metering.machine.cpu_quota", lambda *_: machine_quota(folder))
    elif name in ("version", "licence"):
        patch.syspath_prepend(str(folder))
    elif name == "threads":
        patch.setenv("OMP_NUM_THREADS", "1")
    elif name == "flag":
        patch.setenv("JAX_DEFAULT_PRNG_IMPL", "rbg")
    elif name == "cores":
        patch.setattr("metering.machine.usable_cores", lambda: 1)
    elif name == "slower":
        steady(patch, "step of LoRA", 1.3)
    elif name == "library":
        text = programs.products_of
        patch.setattr(programs, "products_of", lambda *given: tuple(replace(u, library="new") for u in text(*given)))


def machine_quota(folder: Path) -> float | None:
    from metering.cgroups import cpu_quota

    return cpu_quota(folder, folder / "membership")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        *(("slower", 10), ("library", 10), ("governor", 0), ("quota", 0), ("version", 0), ("licence", 0)),
        *(("threads", 0), ("flag", 0), ("cores", 0)),
    ],
)
def test_a_planted_fault_is_noticed(name, status, folder, monkeypatch, tmp_path):
    steady(monkeypatch)
    faulty(name, monkeypatch, tmp_path)
    # another quota, flag or number of cores is another machine to the known answers, which are not the matter here
    monkeypatch.setattr(audit, "machine_record", lambda **_: now(folder))
    report = audited(folder)
    assert name in kinds(report), report.table()
    assert report.exit_status == status
    packages = {"version", "licence"}
    assert kinds(report) <= (packages if name in packages else {name}), "and nothing else"


def now(folder: Path) -> MachineRecord:
    """The record of the baseline, as this machine is now."""
    before = audit.read_baseline(folder / "baseline.json")
    return replace(before, machine=machine.machine(), flags=machine._flags())


def test_a_counter_that_is_lost_is_noticed(folder, monkeypatch):
    steady(monkeypatch)
    before = audit.read_baseline(folder / "baseline.json")
    others = (source for source in before.joules if source.name != "rapl")
    counted = replace(before, joules=(JouleSource("rapl", "rises under load"), *others))
    monkeypatch.setattr(audit, "read_baseline", lambda path: counted)
    monkeypatch.setattr(energy, "rapl", lambda: None)
    (lost,) = (one for one in audited(folder).differences if one.kind == "joules" and one.name == "rapl")
    assert (lost.before, lost.now, lost.is_loss) == ("rises under load", "absent", False)


def test_an_answer_that_became_wrong_is_a_loss(folder, monkeypatch):
    steady(monkeypatch)
    wrong = replace(now(folder), answers=(Answer("p", False, 2.0, 1.0),))
    monkeypatch.setattr(audit, "machine_record", lambda **_: wrong)
    report = audited(folder)
    assert (report.exit_status, kinds(report)) == (10, {"answer"})


def test_noise_that_passes_is_no_loss(folder, monkeypatch):
    """A program that seems slower is measured again; the first measurement is beside other work."""
    steady(monkeypatch, "forward pass", 1.5)
    calls = []
    measured = programs.measured_speeds

    def busy_at_first(*arguments):
        calls.append(len(arguments[0]))
        if len(calls) == 2:
            steady(monkeypatch)
        return measured(*arguments)

    monkeypatch.setattr(audit, "measured_speeds", busy_at_first)
    report = audited(folder)
    assert (report.exit_status, kinds(report)) == (0, set())
    assert calls == [5, 4], "only those that seem slower"


def test_speeds_of_another_processor_are_no_evidence(folder, monkeypatch):
    steady(monkeypatch, "forward pass", 9.0)
    other = now(folder)
    monkeypatch.setattr(
        audit, "machine_record", lambda **_: replace(other, machine=replace(other.machine, processor="Another 1"))
    )
    report = audited(folder)
    assert (report.exit_status, report.comparable, kinds(report)) == (11, False, {"processor"})
    assert "speeds are not compared" in report.table()


@pytest.mark.parametrize(
    ("sets", "library", "status", "expected"),
    [
        (None, "", 0, {"processor"}),
        (None, "new", 10, {"processor", "library"}),
        (("sse4_2",), "new", 11, {"processor"}),
    ],
    ids=["the same", "another library", "other instruction sets"],
)
def test_libraries_alone_compare_with_another_machine(sets, library, status, expected, folder, monkeypatch):
    steady(monkeypatch, "forward pass", 9.0)
    other = now(folder)
    sets = other.machine.instruction_sets if sets is None else sets
    elsewhere = replace(other, machine=replace(other.machine, processor="Another 1", instruction_sets=sets))
    monkeypatch.setattr(audit, "machine_record", lambda **_: elsewhere)
    if library:
        faulty("library", monkeypatch, folder)
    report = audited(folder, libraries=True)
    assert (report.exit_status, kinds(report)) == (status, expected), report.table()
    assert ("libraries are not compared" in report.table()) is (status == 11)


def altered(folder: Path, target: Path, change) -> str:
    """Writes the baseline with changed programs; returns the file's name."""
    values = json.loads((folder / "baseline.json").read_text())
    values["audit"]["programs"] = change(values["audit"]["programs"])
    (target / "altered.json").write_text(json.dumps(values), encoding="utf-8-sig")
    return str(target / "altered.json")


def test_what_hides_every_loss_is_not_compared(folder, monkeypatch, tmp_path, caplog):
    steady(monkeypatch)
    monkeypatch.setattr(audit, "machine_record", lambda **_: now(folder))  # the one kept is of another test's machine
    wide = altered(folder, tmp_path, lambda programs: [{**programs[0], "spread": 0.5}, *programs[1:]])
    report = audit_machine(baseline=wide, rounds=3, sizes=SMALL, write_baseline=str(tmp_path / "new.json"))
    assert (report.exit_status, report.comparable) == (11, False)
    assert "its rounds lie too far apart" in report.table()
    assert f"{tmp_path / 'new.json'}: a baseline of" in report.table()
    assert not caplog.records
    other = altered(folder, tmp_path, lambda programs: [{**one, "program": f"x{one['program']}"} for one in programs])
    report = audit_machine(baseline=other, rounds=3, sizes=SMALL)
    assert (report.exit_status, kinds(report)) == (11, {"program"})
    assert {(one.name[:1] == "x", one.before, one.now) for one in report.differences} == {
        (True, "measured", "none"),
        (False, "none", "measured"),
    }
    assert "no program of the baseline" in report.table()
    monkeypatch.setattr(programs, "speed_of", lambda *given: replace(programs_speed_of(*given), spread=0.7))
    audit_machine(rounds=3, sizes=SMALL, write_baseline=str(tmp_path / "new.json"))
    assert "too far apart" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda programs: [],
        lambda programs: programs + programs[:1],
        lambda programs: [{**programs[0], "ms": 0.0}],
        lambda programs: [{**programs[0], "spread": -0.1}],
    ],
    ids=["none", "doubled", "no time", "negative spread"],
)
def test_programs_that_nobody_measured_are_no_baseline(change, folder, tmp_path):
    with pytest.raises(InputError, match="write one with"):
        audit.read_baseline(Path(altered(folder, tmp_path, change)))


def test_records_compare_by_backend_too_and_losses_come_first(folder, tmp_path):
    before = audit.read_baseline(folder / "baseline.json")
    other = replace(before, backend="another")
    assert compare.speeds_compare(before, before)
    assert compare.libraries_compare(before, before)
    assert not compare.speeds_compare(before, other)
    assert not compare.libraries_compare(before, other)
    wrong = replace(before, answers=(Answer("p", False, 2.0, 1.0),))
    assert compare.differences(wrong, wrong) == (), "wrong before and now"
    listed = compare.differences(before, replace(wrong, backend="another"))
    assert [one.is_loss for one in listed] == [True, False]


def test_a_counter_that_stands_still_is_said(monkeypatch):
    monkeypatch.setattr(energy, "nvml", lambda: energy.Counter("still", lambda: 1.0))
    assert machine.joule_sources()[0] == JouleSource("still", "stands still")


def test_libraries_need_a_baseline(capsys):
    assert topgraft.main(["machine", "--audit", "--libraries"]) == 2
    assert "name a file with --baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "no record of a machine"),
        ('{"key": 1}', "no record of a machine"),
        ("bare", "a record without an audit"),
    ],
)
def test_what_is_no_baseline_is_refused(content, message, tmp_path, capsys):
    file = tmp_path / "file.json"
    if content == "bare":
        content = json.dumps(machine.encode(replace(machine_record(), audit=None)))
    if content is not None:
        file.write_text(content)
    assert topgraft.main(["machine", "--audit", "--baseline", str(file)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "--write-baseline" in err


@pytest.mark.parametrize(
    "words", [("--baseline", "b.json"), ("--write-baseline", "b.json"), ("--rounds", "9"), ("--libraries",)]
)
def test_options_of_the_audit_need_it(words, capsys):
    assert topgraft.main(["machine", *words]) == 2
    assert f"{words[0]}: belongs to --audit" in capsys.readouterr().err


def test_a_baseline_needs_its_folder(capsys):
    assert topgraft.main(["machine", "--audit", "--write-baseline", "nowhere/b.json"]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are Linux'")
@pytest.mark.skipif(jaxlib_version() != "0.10.2", reason="the flags are those of jaxlib 0.10.2")
def test_flags_swap_libraries_and_take_threads():
    """In a process of its own, as a user's: the compiler reads its flags once."""
    child = (
        "import json, topgraft\n"
        "from adapters.auditing import programs\n"
        "from backbone.records import encode\n"
        "from metering.surroundings import pool_threads\n"
        f"compiled = programs.compiled_programs(programs.{SMALL!r})\n"
        "[program.run() for program in compiled]\n"
        "uses = [use for program in compiled for use in program.work.products]\n"
        "print(json.dumps({'libraries': sorted({use.library for use in uses}), 'threads': pool_threads()}))\n"
    )

    def compiled(flags: str, threads: str) -> dict:
        flags = f"{os.environ['XLA_FLAGS'].replace(needed(), '')} {flags}"
        variables = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "PJRT_NPROC": threads}
        words = [sys.executable, "-c", child]
        done = subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first = compiled("--xla_cpu_experimental_ynn_fusion_type=-reduce", "3")
    assert "YNNPACK" in first["libraries"]
    assert first["threads"] == 3
    second = compiled("--xla_cpu_experimental_ynn_fusion_type=-reduce,-individual_dot", "2")
    assert "YNNPACK" not in second["libraries"]
    assert "Eigen" in second["libraries"]
    assert second["threads"] == 2


@pytest.mark.parametrize("file", sorted((ROOT / ".ci").glob("libraries-*.json")), ids=lambda file: file.stem)
def test_a_baseline_of_the_repository_names_a_library_for_each_product(file):
    """`make audit-libraries` compares with the one of the jaxlib that is installed."""
    record = audit.read_baseline(file)
    assert record.versions["jaxlib"] == file.stem.removeprefix("libraries-")
    assert not record.wrong
    assert record.audit is not None
    assert len(record.audit.programs) == 5
    assert all(one.products for one in record.audit.programs)
