"""Reads a range of inputs of one reader in a process of its own, and says what became of them.

    python -m benchmarks.fuzz.worker READER FOLDER START STOP [SECONDS]

It ends at the input STOP, or after SECONDS. The number of the input under way stands in `FOLDER/number`, so that
somebody else sees which one hangs. Lines of JSON on stdout are faults; the last one holds the counts.
"""

from __future__ import annotations

import json
import logging
import mmap
import resource
import struct
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.fuzz.reader import Reader

SLOW = 5.0  # CPU seconds of one input
MEMORY = 1 << 30  # bytes that one input may take beside what the process has
GROWN = 256 << 10  # kilobytes by which the largest resident memory may grow by one input


def readers() -> dict[str, type[Reader]]:
    """Returns every reader by name."""
    from benchmarks.fuzz import artefacts, texts

    return artefacts.READERS | texts.READERS


def place_of(error: BaseException) -> str:
    """Returns the last line of our code that an error passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    ours = [frame for frame in frames if "/benchmarks/" not in frame.filename and "/lib/python" not in frame.filename]
    frame = (ours or frames)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.name}"


def fault(number: int, error: BaseException) -> dict[str, Any]:
    """Returns the line about an error that no reader should raise."""
    return {"number": number, "kind": type(error).__name__, "where": place_of(error), "says": str(error)[:300]}


def peak() -> int:
    """Returns the largest resident memory of this process, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bounded() -> None:
    """Limits the address space to what the process has, and `MEMORY` more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def timed(reader: Reader, number: int) -> tuple[str, dict[str, Any] | None, float]:
    """Returns what became of an input, the line about it where an error tells of a fault, and its CPU seconds."""
    started = time.process_time()
    try:
        result, line = reader.once(number), None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - every error that is no refusal is a fault
        result, line = "fault", fault(number, error)
    return result, line, time.process_time() - started


def once(reader: Reader, number: int) -> tuple[str, dict[str, Any] | None]:
    """Returns what became of an input, and the line about it where it is a fault."""
    before = peak()
    result, line, seconds = timed(reader, number)
    if line is None and seconds > SLOW:  # a program that is compiled for the first input of its kind is not the input's
        result, line, seconds = timed(reader, number)
    grown = peak() - before
    if line is None and (seconds > SLOW or grown > GROWN):
        line = {"number": number, "kind": "slow" if seconds > SLOW else "large", "where": result}
        line["says"] = f"{seconds:.1f} CPU seconds, {grown} kB"
        result = "fault"
    return result, line


def main(name: str, folder: str, start: str, stop: str, seconds: str = "inf") -> None:
    logging.disable(logging.CRITICAL)
    place = Path(folder)
    reader = readers()[name](place / "reader")
    counts: Counter[str] = Counter()
    with (place / "number").open("w+b") as file:
        file.write(struct.pack("q", -1))
        file.flush()
        under_way = mmap.mmap(file.fileno(), 8)
        reader.once(int(start))  # whatever is compiled or imported once is no input's
        bounded()
        ends = time.monotonic() + float(seconds)
        for number in range(int(start), int(stop)):
            under_way[:] = struct.pack("q", number)
            result, line = once(reader, number)
            counts[result] += 1
            if line is not None:
                print(json.dumps(line), flush=True)
            if time.monotonic() > ends:
                break
    print(json.dumps({"counts": counts}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
