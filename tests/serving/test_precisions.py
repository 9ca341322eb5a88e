"""A server runs one precision: its grafts answer as in process, and one of another precision is refused by name."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

import topgraft
from backbone.storage import in_precision
from registry.database import open_registry
from registry.precisions import choose
from serving.live.catalogue import FolderCatalogue
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server.envelopes import default_envelope
from serving.server.serve import trunk_precision, warm
from serving.server.settings import Settings
from tests.grafts import make
from tests.serving.grafts import TEXTS


def test_a_server_answers_in_its_precision_and_refuses_another(tiny, tiny_path, tmp_path, caplog):
    trunk, folder = in_precision(tiny, "int8"), tmp_path / "grafts"
    folder.mkdir()
    make(folder / "rounded", trunk, seed=1)
    make(folder / "plain", tiny, seed=2)
    make(folder / "both", tiny, seed=3, variants=("int8",))
    settings, catalogue = Settings(backbone=str(tiny_path), grafts=str(folder)), FolderCatalogue(folder)
    envelope = default_envelope(settings, trunk, catalogue)
    with Runtime(trunk, envelope, buckets=(24,), batch_sizes=(4,), max_wait=0.01) as runtime:
        Follower(runtime, catalogue).poll()
        warm(runtime)
        pending = runtime.submit([(name, TEXTS[0]) for name in ("rounded", "both")])
        answers = {one.served.task: one.answer(120) for one in pending}
    assert "grafted on" in caplog.text
    assert "in float32, and not validated in int8" in caplog.text
    for name, answer in answers.items():
        graft = topgraft.load(folder / name, trunk)
        expected = graft.predict(TEXTS[:1])[0].probabilities
        assert answer.probabilities == pytest.approx(expected, abs=1e-3)


def test_a_server_of_a_registry_runs_in_the_precision_that_is_recorded_there(tiny, tiny_path, tmp_path, caplog):
    url = f"sqlite:///{tmp_path}/registry.db"
    settings = Settings(backbone=str(tiny_path), registry=url, store=str(tmp_path / "store"))
    with contextlib.closing(open_registry(url)) as registry:
        assert trunk_precision(settings) == "", "nothing is recorded: this machine's choice counts"
        choose(registry, tiny.base_id, "int8", actor="Ada", reason="twice as fast")
    assert trunk_precision(settings) == "int8"
    assert not caplog.records
    assert trunk_precision(replace(settings, precision="float32")) == "float32"
    assert "--precision: float32, but the registry records int8" in caplog.text
    assert trunk_precision(Settings(backbone=str(tiny_path), grafts=str(tmp_path))) == ""
