"""The record of this machine: what it is, what compiles for it, and whether that computes rightly. Imports no jax.

    record = require_known_answers()     # before anything new is computed

The known answers (`metering.known_answers`) run once for each machine, set of versions and set of flags, in a process
of their own. `TOPGRAFT_HOME/machines` keeps the record. A wrong answer stops what computes something new. Serving and
predicting go on and log it. `TOPGRAFT_ACCEPT_ANSWERS`, set to the verdict that a message names, goes on knowingly.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapters.auditing.record import MachineAudit
from backbone.compiler_flags import VARIABLE, present_flags, remedy
from backbone.errors import InputError
from backbone.files import write_durable
from backbone.home import machines_folder, use_compilation_cache
from backbone.records import decode, digest, encode, newer
from backbone.texts import load_json
from metering import energy
from metering.known_answers.program import Answer, failed
from metering.machine import Machine, machine

log = logging.getLogger(__name__)

ACCEPT = "TOPGRAFT_ACCEPT_ANSWERS"  # variable that names the wrong verdict with which a user goes on
PACKAGES = ("jax", "jaxlib", "numpy", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
# variables of jax that change no result
HARMLESS = (
    "JAX_COMPILATION_CACHE",
    "JAX_PERSISTENT_CACHE",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_LOG",
    "JAX_TRACEBACK",
    "JAX_COORDINATOR",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
PROGRAMS = Path(energy.__file__).with_name("known_answers")
_MEASURED: dict[str, MachineRecord] = {}  # records of this process by key, for homes that cannot be written


@dataclass(frozen=True)
class JouleSource:
    """A source of joules on this machine."""

    name: str  # nvml, rapl, or the model
    state: str  # rises under load, stands still, absent, or the model's prior


@dataclass(frozen=True)
class MachineRecord:
    """The record of a machine, for one set of versions and flags; `topgraft machine` prints it."""

    key: str  # hash of machine, versions, flags and the programs themselves
    verdict: str  # right-... or wrong-..., with a hash of the key and of the wrong programs
    machine: Machine
    versions: dict[str, str]  # version by package
    flags: dict[str, str]  # variables of the environment that change what is compiled
    backend: str  # cpu, gpu or tpu
    answers: tuple[Answer, ...]  # verdict on each program
    seconds: float  # time that the known answers took
    joules: tuple[JouleSource, ...] = field(default=())
    audit: MachineAudit | None = field(default=None, metadata=newer())  # latest audit; None: there was none

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """Returns the programs whose answers are wrong."""
        return tuple(answer for answer in self.answers if not answer.right)

    @property
    def cache_key(self) -> str:
        """Returns the part of the boundary caches' keys that is owed to the compiler; "" for one that is right."""
        return self.verdict if self.wrong else ""

    @property
    def exit_status(self) -> int:
        """Returns the exit status of `topgraft machine`."""
        return 10 if self.wrong else 0

    def table(self) -> str:
        """Returns the record for people."""
        described, listed = self.machine, ", ".join(f"{name} {number}" for name, number in self.versions.items())
        quota = "none" if described.quota is None else f"{described.quota:g} processors"
        lines = [
            ("processor", described.processor),
            ("instruction sets", " ".join(described.instruction_sets)),
            ("cores", f"{described.cores}; quota: {quota}; {described.system}; {self.backend}"),
            ("versions", listed),
            *((name, value) for name, value in self.flags.items()),
            *((f"joules, {source.name}", source.state) for source in self.joules),
            *(self.audit.lines() if self.audit else ()),
        ]
        head = [f"{name + ':':18} {value}" for name, value in lines]
        end = f"known answers:     {self.verdict}: {self.summary()}, {self.seconds:.1f} s"
        return "\n".join([*head, *map(_line, self.answers), end])

    def summary(self) -> str:
        """Returns how many programs are right."""
        return f"{len(self.answers) - len(self.wrong)} of {len(self.answers)} right"


def _line(answer: Answer) -> str:
    """Returns the verdict on a program, with its difference and the largest one allowed."""
    difference = answer.problem if answer.difference is None else f"{answer.difference:.1e} of {answer.allowed:.1e}"
    if answer.right and not answer.difference:
        difference = "exactly"
    return f"  {'right' if answer.right else 'WRONG'}  {answer.program}: {difference}"


def ready_to_compute() -> MachineRecord:
    """Requires the known answers, then switches the compilation cache on; for verbs that compute something new."""
    record = require_known_answers()
    use_compilation_cache()
    return record


def ready_to_answer() -> None:
    """Logs wrong known answers that are on record, then switches the compilation cache on; for verbs that answer."""
    record = remembered()
    if record is not None and record.wrong:
        log.warning("%s; answers go on, and may be wrong. Remedy: %s", _what_is_wrong(record), remedy())
    use_compilation_cache()


def require_known_answers() -> MachineRecord:
    """Returns the record of this machine, measured if there is none.

    Raises InputError where an answer is wrong, unless `TOPGRAFT_ACCEPT_ANSWERS` names this very verdict.
    """
    record = machine_record()
    if record.wrong and os.environ.get(ACCEPT) != record.verdict:
        raise InputError(
            f"{_what_is_wrong(record)}, so nothing new is computed. Remedy: {remedy()}. `topgraft machine` shows every "
            f"program. To go on knowingly, set {ACCEPT}={record.verdict}; it is recorded"
        )
    if record.wrong:
        log.warning("%s; going on, as %s says", _what_is_wrong(record), ACCEPT)
    return record


def _what_is_wrong(record: MachineRecord) -> str:
    """Returns the programs that are wrong, the first with its difference, and what compiled them."""
    first, more = record.wrong[0], len(record.wrong) - 1
    size = first.problem or f"{first.difference:.3g} from the right answer, where {first.allowed:.3g} is allowed"
    others = f", and {more} more" if more else ""
    compiled = " ".join([f"jaxlib {record.versions.get('jaxlib')}", *(f"{k}={v!r}" for k, v in record.flags.items())])
    return f"known answers: {record.summary()}; wrong is {first.program!r} ({size}){others}, compiled by {compiled}"


def machine_record(*, again: bool = False) -> MachineRecord:
    """Returns the record of this machine; measures where there is none, or where `again` asks for it."""
    if not again and (record := remembered()):
        return record
    folder = machines_folder()
    with _alone(folder) as writable:
        key = _key()
        record = None if again else remembered() or _MEASURED.get(key)
        if record is None:
            log.info("known answers: compiling small programs with known results, once for this machine and jax")
            record, complete = _measure(key)
            if not complete:  # a crash or a full memory is judged again the next time
                return record
            _MEASURED[key] = record
        if writable:
            _write(record)
    return record


def keep_record(record: MachineRecord) -> None:
    """Writes a record into the home, in place of a former one; nowhere if the home cannot be written."""
    with _alone(machines_folder()) as writable:
        if writable:
            _write(record)


def _write(record: MachineRecord) -> None:
    write_durable(machines_folder() / f"{record.key}.json", json.dumps(encode(record), indent=1).encode())


def remembered() -> MachineRecord | None:
    """Returns the record in the home; None where there is none, or a damaged one."""
    key = _key()
    path = machines_folder() / f"{key}.json"
    try:
        record = decode(MachineRecord, load_json(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # an InputError is a ValueError
        log.warning("%s: unreadable (%s); it is made again", path, error)
        return None
    if record.key != key or record.verdict != _verdict(key, record.answers):
        log.warning("%s: of another machine, or altered; it is made again", path)
        return None
    return record


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Holds the lock of the folder while the block runs; yields False where nothing can be written there."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            lock = stack.enter_context((folder / "writer.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("no record of this machine at %s: %s", folder, error)
            yield False
        else:
            yield True


def _key() -> str:
    """Returns the name of the record: a hash of everything that may change an answer."""
    state = hashlib.sha256()
    for file in sorted(PROGRAMS.glob("*.py")):
        state.update(file.read_bytes())
    parts = {"machine": encode(machine()), "versions": _versions(), "flags": _flags(), "programs": state.hexdigest()}
    return digest(parts).removeprefix("sha256:")[:24]


def _versions() -> dict[str, str]:
    """Returns the versions of the installed packages that compute."""
    from importlib.metadata import PackageNotFoundError, version  # takes a tenth of a second

    known = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            known[name] = version(name)
    return known


def _flags(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the variables that change what is compiled, in the order of their names."""
    flags = {
        name: value
        for name, value in environment.items()
        if name == "LIBTPU_INIT_ARGS" or (name.startswith("JAX_") and not name.startswith(HARMLESS))
    }
    if present := present_flags():
        flags[VARIABLE] = present
    return dict(sorted(flags.items()))


def _verdict(key: str, answers: tuple[Answer, ...]) -> str:
    wrong = [answer.program for answer in answers if not answer.right]
    return f"{'wrong' if wrong else 'right'}-{digest([key, *wrong]).removeprefix('sha256:')[:12]}"


def _measure(key: str) -> tuple[MachineRecord, bool]:
    """Runs the known answers in a process of their own; returns the record, and whether every program ended.

    Raises ChildProcessError where jax does not start.
    """
    started = time.monotonic()
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PROGRAMS.parents[1]), os.environ.get("PYTHONPATH")))),
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what was compiled before says nothing about this compiler
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # leaves an accelerator's memory to this process
    }
    command = [sys.executable, "-P", "-m", "metering.known_answers", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise ChildProcessError(f"known answers: jax does not start (status {done.returncode}): {said}")
    answers = tuple(decode(Answer, line, "known answers") for line in lines[1:])
    ended = done.returncode == (1 if any(not answer.right for answer in answers) else 0)
    if not ended:
        answers = (*answers, failed("the process that compiles", f"ended with status {done.returncode}: {said}"))
    record = MachineRecord(
        key=key,
        verdict=_verdict(key, answers),
        machine=machine(),
        versions=_versions(),
        flags=_flags(),
        backend=str(lines[0]["backend"]),
        answers=answers,
        seconds=round(time.monotonic() - started, 2),
        joules=joule_sources(),
    )
    return record, ended and not any(answer.difference is None for answer in answers)


def joule_sources() -> tuple[JouleSource, ...]:
    """Returns the sources of joules of this machine; a counter counts only if it rises under load."""
    sources = []
    for name, counter in (("nvml", energy.nvml()), ("rapl", energy.rapl())):
        if counter is None:
            sources.append(JouleSource(name, "absent"))
        else:
            sources.append(JouleSource(counter.name, "rises under load" if energy.rises(counter) else "stands still"))
    return (*sources, JouleSource("model", energy.modelled(1.0).source))
