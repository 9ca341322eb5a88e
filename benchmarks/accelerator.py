"""Everything that is to be measured on an accelerator, in one run of under ten minutes.

    python -m benchmarks.accelerator [--out benchmarks/results] [--seconds 545] [--parts mfu speed ...] [--tiny]

Each part is a process of its own with its own share of the time, and writes `accelerator_PART.json` with every figure.
A part that fails, or is stopped, loses nothing of the others. Parts whose times count run alone, the others together.

| part | question |
|---|---|
| `machine` | Does the compiler give the known answers? (`topgraft machine --again`) |
| `mfu` | What share of the peak rate has a training step of a BERT-base at 512 tokens in bfloat16? |
| `speed` | How fast are fills and steps in each precision, beside PyTorch where it is installed? |
| `joules` | Are the joules of a window those of the power that NVML shows? |
| `errors` | How far from the CPU's are logits and attention, in each precision? |
| `verbs` | Do `train-backbone` and `train` give on the device what they give on the CPU? |
| `tests` | Do the core test files pass? |

A machine that is lent without network gets a copy of the checkout and a folder of wheels. There, `SOURCE` being what
`python -m benchmarks.results` prints in the checkout:

    P=/opt/torch/.venv/bin/python3; S=/tmp/site
    $P -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target $S .whl/*.whl
    echo $S > $($P -c 'import site; print(site.getsitepackages()[0])')/more.pth
    export PYTHONPATH=$PWD:$S PYTHONUNBUFFERED=1 XLA_FLAGS= TOPGRAFT_SOURCE="SOURCE"
    $P -m benchmarks.accelerator --out $OUT
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from benchmarks.results import RESULTS, ROOT, Provenance, changed_files, parsed

MACHINE_SECONDS = 90  # longest time of the known answers
QUIET = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # leaves memory to the other processes


class Planned(NamedTuple):
    """A part, and what it is given."""

    module: str
    seconds: int  # longest time
    variables: Mapping[str, str]


ALONE = {
    "mfu": Planned("benchmarks.device.mfu", 140, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}),
    "speed": Planned("benchmarks.device.speed", 205, QUIET),
    "joules": Planned("benchmarks.device.joules", 45, QUIET),
}
TOGETHER = {
    "errors": Planned("benchmarks.device.errors", 150, QUIET),
    "verbs": Planned("benchmarks.device.verbs", 150, QUIET),
    "tests": Planned("benchmarks.device.core_tests", 170, QUIET),
}
RESERVED = 130  # seconds that parts which run alone leave to the others


class Running:
    """A part that runs, with whatever it started."""

    def __init__(self, name: str, planned: Planned, options: argparse.Namespace, head: Path, log: TextIO):
        self.name, self.out, self.started = name, options.out, time.monotonic()
        command = [sys.executable, "-m", planned.module, "--out", str(options.out), "--head", str(head)]
        command += ["--tiny"] if options.tiny else []
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | planned.variables, stdout=log, stderr=log, start_new_session=True
        )

    def end(self, until: float) -> None:
        """Waits for the end, at the latest until a time of the monotonic clock, and notes how it came."""
        try:
            status: int | str = self.process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            status = "stopped, its time was over"
        noted = {"status": status, "seconds": round(time.monotonic() - self.started, 1)}
        path = self.out / f"accelerator_{self.name}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        if content:
            path.write_text(json.dumps({**content, "ended": noted}, indent=1) + "\n")
        print(self.name, json.dumps(noted), "" if content else "no figure", flush=True)


def known_answers(out: Path, log: TextIO, chosen: bool) -> dict[str, Any]:
    """Runs the known answers on the device, so that the provenance of all parts holds their verdict."""
    command = [sys.executable, "-m", "topgraft", "machine", "--again", "--json", "--quiet"]
    if not chosen:
        command.remove("--again")
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | QUIET,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=MACHINE_SECONDS,
        )
        record = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        os.environ["JAX_PLATFORMS"] = "cpu"  # for the provenance alone; parts get the environment without it
        record = {"problem": f"{type(error).__name__}: {error}"[:300]}
    print("machine", json.dumps(record)[:300], f"{time.monotonic() - started:.0f} s", flush=True)
    return dict(record)


def written_head(folder: Path, provenance: Provenance) -> Path:
    """Writes what every result begins with, and returns the file."""
    path = folder / "head.json"
    path.write_text(json.dumps({"provenance": asdict(provenance)}))
    return path


def run_all(options: argparse.Namespace, head: Path, log: TextIO, deadline: float) -> None:
    """Runs the chosen parts: those whose times count one after the other, then the others at once."""
    others = {name: planned for name, planned in TOGETHER.items() if name in options.parts}
    reserved = RESERVED if others else 0
    for name, planned in ALONE.items():
        if name in options.parts and (left := deadline - reserved - time.monotonic()) > 20:
            Running(name, planned, options, head, log).end(time.monotonic() + min(planned.seconds, left))
    running = [Running(name, planned, options, head, log) for name, planned in others.items()]
    for part in running:
        part.end(min(deadline, part.started + others[part.name].seconds))


def main(arguments: Sequence[str] | None = None) -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=545, help="longest time of all parts together")
    parser.add_argument("--parts", nargs="+", default=["machine", *ALONE, *TOGETHER], help="parts to run")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script on any machine")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - {"machine", *ALONE, *TOGETHER}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if changes := changed_files():
        parser.error(f"not what was committed: {', '.join(changes)}")  # before any time of the device is spent
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    platforms = os.environ.get("JAX_PLATFORMS")
    with tempfile.TemporaryDirectory() as name, (options.out / "accelerator_log.txt").open("a") as log:
        os.environ.setdefault("TOPGRAFT_HOME", name)
        record = known_answers(options.out, log, "machine" in options.parts)
        os.environ["TOPGRAFT_ACCEPT_ANSWERS"] = str(record.get("verdict", ""))  # wrong ones are a figure like others
        _, provenance = parsed(parser, arguments)
        if "problem" in record and platforms is None:
            del os.environ["JAX_PLATFORMS"]
        elif platforms is not None:
            os.environ["JAX_PLATFORMS"] = platforms
        head = written_head(Path(name), provenance)
        content = {"benchmark": "accelerator_machine", "provenance": asdict(provenance), "record": record}
        (options.out / "accelerator_machine.json").write_text(json.dumps(content, indent=1) + "\n")
        run_all(options, head, log, started + options.seconds)
    print(f"{time.monotonic() - started:.0f} s; {options.out}")


if __name__ == "__main__":
    main()
