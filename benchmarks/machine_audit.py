"""Faults planted into a machine, each of which `topgraft machine --audit` has to notice, and runs without any.

    python -m benchmarks.machine_audit [--runs 20] [--rounds 5]

One run writes a baseline. Then every fault of `FAULTS` is planted in a process of its own, and the audit's differences
have to hold one of the fault's kind. Runs without a fault follow, of which none may end with status 10. Flags, threads,
affinity, packages and the compiler's libraries are planted for real. The wrong answer is a copy of jax with one changed
line, under the same version, so that only the known answers can tell it. Governors, quotas and energy counters are
files of the kernel, so the process reads made-up ones in their place; with the baseline it reads sound ones.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backbone.compiler_flags import needed, present_flags
from benchmarks.results import ROOT, parsed, write

YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"  # names what YNNPACK computes; jaxlib needs it without reductions
FOLDERS = ("cpu", "cgroup", "powercap", "packages")  # made-up files of the kernel, and packages


@dataclass(frozen=True)
class Fault:
    """A fault and the kinds of differences of which one has to be reported."""

    kinds: tuple[str, ...]
    loss: bool = False  # the audit has to end with status 10
    environment: Mapping[str, str] = field(default_factory=dict)
    flags: str = ""  # added to XLA_FLAGS
    cores: int = 0  # processors that the process may use; 0: all
    files: Mapping[str, str] = field(default_factory=dict)  # made-up files, by path below the run's folder
    counter: bool = True  # the energy counter rises
    edited: tuple[str, str, str] | None = None  # file of jax, a line of it, and what stands there in the changed copy


FAULTS = {
    "slow flag: no optimisation": Fault(("slower",), True, flags="--xla_backend_optimization_level=0"),
    "slow flag: narrow vectors": Fault(("slower", "library"), True, flags="--xla_cpu_max_isa=SSE4_2"),
    "missing thread": Fault(("threads",), True, environment={"PJRT_NPROC": "1"}),
    "affinity": Fault(("cores",), True, cores=1),
    "quota, version 2": Fault(("quota",), files={"cgroup/cpu.max": "50000 100000\n"}),
    "quota, version 1": Fault(
        ("quota",), files={"cgroup/cpu/cpu.cfs_quota_us": "50000\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    ),
    "swapped library": Fault(("library",), True, flags=f"{YNNPACK}=-individual_dot,-reduce"),
    "changed flag": Fault(("flag",), environment={"JAX_DEFAULT_PRNG_IMPL": "rbg"}),
    "changed version": Fault(
        ("version",), files={"packages/optax-0.0.1.dist-info/METADATA": "Name: optax\nVersion: 0.0.1\n"}
    ),
    "changed licence": Fault(
        ("licence",),
        files={
            "packages/tqdm-4.0.dist-info/METADATA": "Name: tqdm\nVersion: 4.0\nLicense-Expression: BUSL-1.1\n",
        },
    ),
    "governor": Fault(("governor",), files={"cpu/cpu0/cpufreq/scaling_governor": "powersave\n"}),
    "lost counter": Fault(("joules",), counter=False),
    "wrong answers": Fault(
        ("answer",), True, edited=("_src/nn/functions.py", "  if approximate:\n", "  if approximate is not None:\n")
    ),
}
SOUND = {
    "cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "powercap/intel-rapl:0/name": "package-0\n",
    "powercap/intel-rapl:0/energy_uj": "1000000\n",
    "powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
}


def planted(fault: Fault, folder: Path, home: Path) -> dict[str, str]:
    """Writes the made-up files of a run, and returns the environment of its process."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    for name, text in {**SOUND, **fault.files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "cgroup" / "membership").write_text("0::/\n")
    if fault.edited:
        changed_copy(*fault.edited, folder / "packages" / "jax")
    paths = [str(folder / "packages"), str(ROOT)]
    flags = f"{present_flags()} {fault.flags}".strip()
    if YNNPACK in fault.flags:
        flags = f"{present_flags().replace(needed(), '')} {fault.flags}".strip()
    variables = {"PYTHONPATH": os.pathsep.join(paths), "TOPGRAFT_HOME": str(home)}
    return os.environ | variables | ({"XLA_FLAGS": flags} if flags else {}) | dict(fault.environment)


def changed_copy(name: str, line: str, instead: str, target: Path) -> None:
    """Copies the installed jax and changes one line of a file. Raises RuntimeError if the line is not there once."""
    spec = find_spec("jax")
    assert spec is not None
    assert spec.origin is not None
    shutil.copytree(Path(spec.origin).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    text = (target / name).read_text()
    if text.count(line) != 1:
        raise RuntimeError(f"jax/{name} does not hold {line!r} once; another version of jax needs another fault")
    (target / name).write_text(text.replace(line, instead))


def audited(fault: Fault, name: str, root: Path, words: list[str]) -> dict[str, Any]:
    """Runs the audit in a process with a fault, and returns its report and status."""
    folder = root / name
    # the record of a wrong answer has the key of the sound one, so it must not stand in for that in later runs
    environment = planted(fault, folder, (folder if fault.edited else root) / "home")
    child = [sys.executable, "-m", "benchmarks.machine_audit", "--child", str(folder)]
    child += ["--cores", str(fault.cores), *([] if fault.counter else ["--still"])]
    child += ["--words", *words, *(["--again"] if fault.edited else [])]
    done = subprocess.run(child, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{name}: status {done.returncode}: {done.stderr[-2000:]}")
    return {"status": done.returncode, **json.loads(lines[-1])}


def child(options: argparse.Namespace) -> int:
    """Plants what belongs to the process itself, and calls the verb."""
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    import metering.cgroups
    import metering.energy
    import metering.machine
    import metering.surroundings
    import topgraft

    folder = Path(options.child)
    metering.surroundings.governors = functools.partial(metering.surroundings.governors, folder / "cpu")
    metering.energy.rapl = functools.partial(metering.energy.rapl, folder / "powercap")
    read = functools.partial(metering.cgroups.cpu_quota, folder / "cgroup", folder / "cgroup" / "membership")
    metering.machine.cpu_quota = lambda *_: read()
    if not options.still:
        threading.Thread(target=rise, args=(folder / "powercap" / "intel-rapl:0" / "energy_uj",), daemon=True).start()
    return topgraft.main(["machine", "--audit", "--json", "--quiet", *options.words])


def rise(file: Path) -> None:
    """Lets a made-up counter rise with the CPU time of this process, 10 W a core."""
    while True:
        times, fresh = os.times(), file.with_name("fresh")
        fresh.write_text(f"{int(1e6 + 1e7 * (times.user + times.system))}\n")
        fresh.replace(file)  # a reader never sees half a number
        time.sleep(0.02)


def noticed(fault: Fault, report: dict[str, Any]) -> bool:
    """Returns whether the audit reported the fault."""
    return not {one["kind"] for one in report["differences"]}.isdisjoint(fault.kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="runs without a fault")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each program")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), help="names of faults")
    parser.add_argument("--name", default="machine_audit", help="name of the result file")
    options, provenance = parsed(parser)
    with tempfile.TemporaryDirectory() as temporary:
        root, rounds = Path(temporary), ["--rounds", str(options.rounds)]
        baseline = str(root / "baseline.json")
        first = audited(Fault(()), "baseline", root, ["--write-baseline", baseline, *rounds])
        faults = {}
        for name in options.faults:
            report = audited(FAULTS[name], name, root, ["--baseline", baseline, *rounds])
            listed = [f"{one['kind']}: {one['name']}: {one['before']} -> {one['now']}" for one in report["differences"]]
            faults[name] = {
                "noticed": noticed(FAULTS[name], report),
                "status": report["status"],
                "status_is_right": not FAULTS[name].loss or report["status"] == 10,
                "differences": listed[:20],
            }
            print(name, faults[name], flush=True)
        runs = []
        for number in range(options.runs):
            report = audited(Fault(()), f"run {number}", root, ["--baseline", baseline, *rounds])
            losses = [one for one in report["differences"] if one["kind"] in ("slower", "library", "answer")]
            runs.append({"status": report["status"], "losses": losses, "load": report["record"]["audit"]["load"]})
            print("no fault:", runs[-1], flush=True)
    content = {
        "programs": first["record"]["audit"]["programs"],
        "faults": faults,
        "kinds": len(faults),
        "noticed": sum(one["noticed"] for one in faults.values()),
        "status_is_right": sum(one["status_is_right"] for one in faults.values()),
        "false_alarms": sum(one["status"] == 10 for one in runs),
        "runs": runs,
    }
    print(write(options.name, content, provenance))


if __name__ == "__main__":
    if "--child" in sys.argv:
        hidden = argparse.ArgumentParser()
        hidden.add_argument("--child")
        hidden.add_argument("--cores", type=int, default=0)
        hidden.add_argument("--still", action="store_true")
        hidden.add_argument("--words", nargs=argparse.REMAINDER, default=[])
        sys.exit(child(hidden.parse_args()))
    main()
