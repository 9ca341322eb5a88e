"""The folders that a server follows."""

from __future__ import annotations

import shutil

import pytest

from backbone.errors import InputError
from serving.live.catalogue import FolderCatalogue
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server.serve import serve
from serving.server.settings import Settings
from tests.grafts import make
from tests.serving.place import ENVELOPE, SPEC


def test_a_folder_of_grafts_is_served_by_the_names_of_its_folders(folder, tmp_path):
    """Grafts, work folders of `train`, a work folder alone and a graft alone; one that is no task's name is told."""
    runs = tmp_path / "runs"
    shutil.copytree(folder / "alpha", runs / "plain")
    shutil.copytree(folder / "beta", runs / "trained" / "graft")
    (runs / "trained" / "config.json").write_text("{}")
    shutil.copytree(folder / "gamma", runs / "team" / "deeper" / "graft")
    shutil.copytree(folder / "gamma", runs / "graft")
    for place, tasks in (
        (runs, {"plain": "plain", "trained": "trained/graft", "graft": "graft"}),
        (runs / "plain", {"plain": "."}),
        (runs / "trained", {"trained": "graft"}),
        (runs / "trained" / "graft", {"trained": "."}),
    ):
        catalogue = FolderCatalogue(place)
        assert {task: catalogue.path(entry) for task, entry in catalogue.lives().items()} == {
            task: place / where for task, where in tasks.items()
        }
    (runs / "trained").rename(tmp_path / "away")
    (runs / "trained").symlink_to(tmp_path / "away")
    catalogue = FolderCatalogue(runs)
    with pytest.raises(InputError, match="runs/trained: a symbolic link"):
        catalogue.path(catalogue.lives()["trained"])


def test_a_folder_without_grafts_or_with_two_of_one_name_is_refused_at_the_start(folder, tmp_path, caplog):
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match="runs is not a folder"):
        FolderCatalogue(runs)
    (runs / "begun").mkdir(parents=True)
    with pytest.raises(InputError, match=r"runs holds no graft.*topgraft train CONFIG --workdir .*runs/NAME`"):
        serve(Settings(backbone="b", grafts=str(runs), port=0))
    shutil.copytree(folder / "alpha", runs / "2nd try")
    with pytest.raises(InputError, match=r"runs/2nd try: no name of a task, rename"):
        FolderCatalogue(runs)
    shutil.copytree(folder / "alpha", runs / "one")
    assert list(FolderCatalogue(runs).lives()) == ["one"]
    assert "2nd try is not served" in caplog.text
    shutil.copytree(folder / "beta", runs / "one" / "graft")
    with pytest.raises(InputError, match=r"runs/one and .*runs/one/graft are both the task 'one'"):
        FolderCatalogue(runs)


def test_a_folder_that_becomes_empty_keeps_what_is_served(tiny, folder, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(folder / "alpha", runs / "one" / "graft")
    with Runtime(tiny, ENVELOPE, buckets=(48,), batch_sizes=(8,)) as runtime:
        follower = Follower(runtime, FolderCatalogue(runs))
        assert follower.poll()
        answer = runtime.predict([("one", "ban bas")], timeout=60)[0].probabilities
        runs.rename(tmp_path / "away")
        runs.mkdir()
        assert not follower.poll()
        assert "holds no graft" in (follower.unreachable or "")
        assert runtime.predict([("one", "ban bas")], timeout=60)[0].probabilities == answer


def test_a_graft_one_folder_deeper_is_named(tiny, tmp_path, caplog):
    """It is not served, and nobody has to guess why."""
    place = tmp_path / "grafts"
    make(place / "alpha", tiny, SPEC)
    for deeper in ("team/beta", "team/runs/graft"):
        make(place / deeper, tiny, SPEC)
    make(place / "alpha" / "kept", tiny, SPEC)  # what lies inside a graft is nobody's task
    (place / "notes").write_text("a file")
    caplog.set_level("WARNING")
    assert list(FolderCatalogue(place).lives()) == ["alpha"]
    named = [record.message.split(" is not served")[0] for record in caplog.records]
    assert named == [str(place / "team/beta"), str(place / "team/runs/graft")]
    with pytest.raises(InputError, match=r"holds no graft.*team.beta lies deeper"):
        FolderCatalogue(parent_of(place))


def parent_of(place):
    """A folder in which nothing lies but `team`, one folder down."""
    above = place.with_name("above")
    above.mkdir()
    (place / "team").rename(above / "team")
    return above
