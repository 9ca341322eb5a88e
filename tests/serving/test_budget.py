"""A server and its team's budget: it answers all the same, warns with the line, and counts."""

from __future__ import annotations

import contextlib

import pytest

from backbone.errors import InputError
from registry.budgets.read import read_budgets
from registry.database import open_registry
from registry.store import Store
from serving.live.catalogue import FolderCatalogue, RegistryCatalogue, Timely
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server.settings import Settings
from tests.registry.budgets.test_promote import COST, graft
from tests.serving.place import ENVELOPE

LOG = {"actor": "tests", "reason": "r", "verdict": "PASS"}


def test_a_version_over_budget_is_served_with_a_warning(tiny, folder, tmp_path, caplog):
    file = tmp_path / "team.toml"
    file.write_text("[default]\nmax_latency_ms = 5\n")
    store = Store(tmp_path / "store")
    with (
        contextlib.closing(open_registry(f"sqlite:///{tmp_path / 'registry.db'}")) as registry,
        Runtime(tiny, ENVELOPE, buckets=(48,), batch_sizes=(8,)) as runtime,
    ):
        for number, (graft, latency) in enumerate((("alpha", 4.0), ("beta", 6.0)), 1):
            registry.publish("one", folder / graft, store)
            registry.measure("one", number, "latency, ms", latency, "measured_counter")
        catalogue = Timely(RegistryCatalogue(registry, store, budgets=read_budgets(file)))
        follower = Follower(runtime, catalogue)
        registry.promote("one", 1, expected_generation=0, **LOG)
        follower.poll()
        assert follower.over_budget == {}
        registry.promote("one", 2, expected_generation=1, **LOG)
        follower.poll()
        assert runtime.entries["one"].version == "2"
        assert f"over budget, served all the same: one 2: {file}:2 max_latency_ms: 6 ms, at most 5" in caplog.text
        assert list(follower.over_budget) == ["one"]
        registry.rollback("one", actor="tests", reason="r")
        follower.poll()
        assert (runtime.entries["one"].version, follower.over_budget) == ("1", {})
        catalogue.close()


def test_a_server_reads_the_costs_of_a_training_that_was_published_by_hand(tiny, tmp_path):
    file = tmp_path / "team.toml"
    file.write_text("[default]\nmax_cpu_seconds = 2\n")
    graft(tmp_path / "graft", tiny, 0, 0.9, {"train": COST})
    store = Store(tmp_path / "store")
    with contextlib.closing(open_registry(f"sqlite:///{tmp_path / 'registry.db'}")) as registry:
        registry.publish("one", tmp_path / "graft", store)
        registry.promote("one", 1, expected_generation=0, **LOG)
        catalogue = RegistryCatalogue(registry, store, budgets=read_budgets(file))
        entry = catalogue.lives()["one"]
        assert f"one 1: {file}:2 max_cpu_seconds: 2.5 CPU s, at most 2" in catalogue.over_budget(entry)
        file.write_text("[default]\nmax_cpu_seconds = 3\n")
        assert RegistryCatalogue(registry, store, budgets=read_budgets(file)).over_budget(entry) == ""


def test_a_folder_has_no_budget(folder):
    with pytest.raises(InputError, match="--budgets: belongs to --registry"):
        Settings(backbone="b", grafts=str(folder), budgets="team.toml")
    catalogue = FolderCatalogue(folder)
    assert catalogue.over_budget(catalogue.lives()["alpha"]) == ""
