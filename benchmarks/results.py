"""Result files: what was measured, where, with which versions and which commit."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def commit() -> str:
    """The checkout's commit, with `+` where tracked files other than results differ from it."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    tracked = [*git, "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results"]
    changed = subprocess.run(tracked, capture_output=True, text=True, check=True).stdout
    return name + ("+" if changed.strip() else "")


def machine() -> dict[str, Any]:
    """Processor and cores."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "runs": len(values)}


def write(name: str, content: dict[str, Any]) -> Path:
    """Writes `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    head = {"benchmark": name, "commit": commit(), "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    path.write_text(json.dumps(head | content, indent=1) + "\n")
    return path
