"""The state machine of tests/registry/machine.py, for minutes: two registries on one store against a model.

    python -m benchmarks.soak_registry [--minutes 10]

SQLite, a PostgreSQL that is started for this run, and the same behind PgBouncer in transaction mode take turns. A step
that differs from the model ends the run with status 1, and `hypothesis` prints the shortest way there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from backbone.storage import load_backbone
from benchmarks.results import parsed, write
from tests.grafts import make
from tests.registry.machine import drive
from tests.registry.pgbouncer import pooling, program
from tests.registry.postgres import binaries, running
from tests.tiny import make_tiny_backbone

EXAMPLES, STEPS = 5, 40  # of a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--name", default="soak_registry", help="of the result file")
    options, provenance = parsed(parser)
    server_programs, pooler = binaries(), program()
    if server_programs is None or pooler is None:
        sys.exit("PostgreSQL or PgBouncer is not installed: apt-get install postgresql pgbouncer")
    operations: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place, running(server_programs) as server, pooling(server, pooler) as port:
        tiny = load_backbone(make_tiny_backbone(Path(place) / "backbone"))
        grafts = [Path(place) / str(number) for number in range(5)]
        for number, graft in enumerate(grafts):
            make(graft, tiny, seed=number)
        ways: dict[str, Callable[[], str] | None] = {
            "sqlite": None,
            "postgresql": server.schema,
            "pgbouncer": lambda: server.schema().replace(f":{server.port}/", f":{port}/"),
        }
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            for name, urls in ways.items():
                operations[name] += drive(urls, grafts, EXAMPLES, STEPS)
                print(dict(operations), flush=True)
    print(write(options.name, {"operations": dict(operations), "violations": 0}, provenance))


if __name__ == "__main__":
    main()
