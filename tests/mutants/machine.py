"""Mutants of the registry that its state machine has to find by itself (`tests/registry/machine.py`).

`python -m benchmarks.registry_mutants` applies each, and drives the machine until it differs from the model.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ROWS, LEASES, LOG, DATABASE = (f"registry/{name}.py" for name in ("rows", "leases", "log", "database"))
COLLECT, USERS, UPGRADE = (f"registry/{name}.py" for name in ("collect", "users", "upgrade"))
TEST = "tests/registry/test_machine.py::test_the_registry_is_what_the_model_says"


def planted(file: str, old: str, new: str, why: str) -> Mutant:
    """Returns a mutant that the state machine is meant to notice."""
    return Mutant(file, old, new, TEST, why)


MACHINE = (
    planted(ROWS, "if present == expected:", "if present >= expected:", "an older state would win a promotion"),
    planted(ROWS, 'if row.state != "published":', "if False:", "a version published again would stay collected"),
    planted(
        ROWS,
        "(tables.versions.c.task == task) & (tables.versions.c.content_id == manifest.content_id)",
        "tables.versions.c.content_id == manifest.content_id",
        "content of another task would be taken for this one's",
    ),
    planted(
        DATABASE,
        "if live is not None and live.version == number:",
        "if False:",
        "promoting the live version would add to the log",
    ),
    planted(
        LEASES,
        "if row is None or row.owner is None or row.expires_at <= now:",
        "if row is None or row.owner is None:",
        "a dead run would hold a task for ever",
    ),
    planted(
        LEASES, "if row is None or row.token != token:", "if row is None:", "a run that lost its lease would write"
    ),
    planted(
        LEASES,
        "if row.owner is None or row.expires_at <= now:\n        ended",
        "if row.owner is None:\n        ended",
        "a run whose lease ran out would write",
    ),
    planted(
        LEASES,
        "(leases.c.task == lease.task) & (leases.c.token == lease.token)",
        "leases.c.task == lease.task",
        "a run that lost its lease would end another's",
    ),
    planted(LOG, "            stack.pop()\n", "            stack.append(number)\n", "a rollback would go forward"),
    planted(
        LOG,
        "    append(connection, version.task, now_live.generation)\n",
        "    append(connection, version.task, now_live.generation) if live is None else None\n",
        "servers would not learn of a promotion",
    ),
    planted(COLLECT, ".limit(keep)", ".limit(keep + 1)", "gc would keep one version too many"),
    planted(
        COLLECT,
        "kept |= {entry.from_version, entry.to_version, before}",
        "kept |= {entry.to_version}",
        "gc would remove what a rollback needs",
    ),
    planted(
        COLLECT,
        "if task in leases.leased(connection, registry.database.time(connection)):",
        "if False:",
        "gc would remove versions of a run at work",
    ),
    planted(
        COLLECT,
        "    if known == here:\n",
        "    if known:\n",
        "gc of a copied registry would remove what the original names",
    ),
    planted(
        USERS,
        "if folder.name != self._id",
        "if folder.name == self._id",
        "gc would remove what another registry names",
    ),
    planted(
        USERS,
        "                (self._folder / (name + NEW)).unlink(missing_ok=True)\n\n    def give_up",
        "                pass\n\n    def give_up",
        "a publication would seem under way for ever",
    ),
    planted(UPGRADE, "        fill_log(connection)\n", "", "an upgraded registry would have an empty log"),
)
