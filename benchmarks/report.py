"""A benchmark report that anyone can compare with theirs: fixed settings, public data, under 30 minutes.

    python -m benchmarks.report --data ../shared/data [--out benchmark-report] [--only passes probe]
    python -m benchmarks.report compare A.json B.json [--json] [--other-code]

It writes `report.json`, with its provenance, and `report.html`. `benchmarks/report_parts.py` says what is measured, and
`benchmarks/comparison.py` what may be compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import comparison
from benchmarks.measures import Part
from benchmarks.report_page import report_page
from benchmarks.report_parts import PARTS, prepared
from benchmarks.results import ROOT, parsed, write

LIMIT = 1800.0  # seconds


def main() -> int:
    """Measures and writes both files, or compares two; returns the exit status."""
    if sys.argv[1:2] == ["compare"]:
        return comparison.main(sys.argv[2:])
    data = os.environ.get("TOPGRAFT_DATA", str(ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the public sets, with banking77/")
    parser.add_argument("--out", type=Path, default=Path("benchmark-report"), help="folder of the JSON and the page")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts to measure")
    options, provenance = parsed(parser)
    started, parts = time.monotonic(), list[Part]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            place = prepared(Path(folder), options.data)
        except FileNotFoundError as error:
            parser.error(f"--data: {error.filename} is missing; name the folder that holds banking77/train.csv")
        for name in options.only:
            before = time.monotonic()
            part = PARTS[name](place)
            parts.append(replace(part, seconds=round(time.monotonic() - before, 1)))
            for one in part.measures:
                value = "none" if one.value is None else f"{one.value:.5g}"
                print(f"{name}: {one.name} {value} {one.unit}".rstrip(), flush=True)
    seconds = time.monotonic() - started
    content = {"parts": [asdict(part) for part in parts], "seconds": round(seconds, 1), "limit_seconds": LIMIT}
    print(write(comparison.BENCHMARK, content, provenance, options.out))
    page = options.out / "report.html"
    page.write_text(report_page(parts, asdict(provenance), seconds), encoding="utf-8")
    print(page)
    if seconds > LIMIT:
        print(f"{seconds / 60:.0f} minutes, more than {LIMIT / 60:.0f}: is the machine busy?", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
