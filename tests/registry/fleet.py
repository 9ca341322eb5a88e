"""A registry of many retrained versions without artefacts, with records as large as those of real retrainings."""

from __future__ import annotations

from registry import tables
from registry.database import Registry

HASH = "sha256:" + "0" * 64
SLICES = [f"label class{i}" for i in range(12)]


def lineage(cpu: float, accuracy: float, latency: float) -> dict:
    """What a retraining records, cut to what is read or takes room."""
    check = {"verdict": "PASS", "asked": 0.0, "rows": 400, "reason": "as a person would read it " * 3, "interval": None}
    checks = [{"name": f"accuracy, {name}", "found": accuracy, **check} for name in SLICES]
    checks.append({"name": "team file.toml:7 max_latency_ms", "found": latency, **check})
    return {
        "fingerprint": {
            "rows": dict.fromkeys(("train", "dev", "gate"), HASH),
            "config": HASH,
            "graft": HASH,
            "gate": HASH,
        },
        "metric": "accuracy",
        "measured": {
            "wall_seconds": cpu / 2,
            "cpu_seconds": cpu,
            "peak_bytes": 10**9,
            "flops": cpu * 1e10,
            "bytes_moved": cpu * 1e9,
            "watts": 6.0,
            "joules": {
                "quality": "modelled",
                "value": 6 * cpu,
                "low": 2 * cpu,
                "high": 15 * cpu,
                "source": "CPU seconds",
            },
            "quality": "measured_counter",
        },
        "gate": {
            "verdict": "PASS",
            "split": "gate",
            "candidate": {"accuracy": accuracy, "macro_f1": accuracy - 0.01},
            "checks": checks,
        },
    }


def fill(registry: Registry, tasks: int, each: int, *, at: float) -> None:
    """Enters `tasks` tasks of `each` versions, a day apart, the last one live at the time `at`.

    Of version v of task t: CPU seconds 100 + 10 t + v, accuracy 0.9 - t / 1000, latency 5 + v / 10 ms.
    """
    versions, live, promotions, measurements = [], [], [], []
    for t in range(tasks):
        task = f"task{t:03d}"
        for v in range(1, each + 1):
            cpu, accuracy = 100.0 + 10 * t + v, 0.9 - t / 1000
            created = at - (each - v) * 86400.0
            content_id = f"sha256:{t * each + v:064x}"
            versions.append(
                {
                    "task": task,
                    "number": v,
                    "content_id": content_id,
                    "weights_id": HASH,
                    "path": content_id[7:],
                    "parent": v - 1 or None,
                }
                | {"created_at": created, "metrics": {"test": {"accuracy": accuracy}}, "state": "published"}
                | {"lineage": lineage(cpu, accuracy, 5 + v / 10)}
            )
            promotions.append(
                {
                    "task": task,
                    "generation": v,
                    "from_version": v - 1 or None,
                    "to_version": v,
                    "actor": f"person{t % 3}",
                }
                | {"reason": "rows changed", "verdict": "PASS", "gate": None, "at": created}
            )
            measurements += [
                {
                    "task": task,
                    "version": v,
                    "name": name,
                    "value": value,
                    "quality": quality,
                    "detail": {},
                    "at": created,
                }
                for name, value, quality in (
                    ("retraining, CPU seconds", cpu, "measured_counter"),
                    ("retraining, joules", 6 * cpu, "modelled"),
                )
            ]
        live.append(
            {"task": task, "version": each, "content_id": content_id, "generation": each, "previous": each - 1 or None}
        )
    with registry.database.writing("task000") as connection:
        for rows, table in (
            (versions, tables.versions),
            (live, tables.live),
            (promotions, tables.promotions),
            (measurements, tables.measurements),
        ):
            connection.execute(table.insert(), rows)
