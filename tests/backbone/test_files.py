"""What killed writers leave is removed by the next writer of the same place, and what living writers hold is not."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from backbone.files import create_durable, disk_errors, new_folder, remove_abandoned, write_durable

LEFT = ".notes.tmp-1234abcd"


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_left_by_a_killed_writer_goes_with_the_next_write(tmp_path):
    for name in (LEFT, ".notes.tmp-4711", ".others.tmp-4711"):
        (tmp_path / name).write_text("half")
    write_durable(tmp_path / "notes", b"whole")
    assert names(tmp_path) == [".others.tmp-4711", "notes"]
    assert (tmp_path / "notes").read_bytes() == b"whole"


def test_a_file_that_a_living_writer_holds_stays(tmp_path):
    with (tmp_path / LEFT).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_durable(tmp_path / "notes", b"mine")
        assert names(tmp_path) == [LEFT, "notes"]
    remove_abandoned(tmp_path / "notes")
    assert names(tmp_path) == ["notes"]


def test_the_first_of_two_creators_wins_and_nothing_is_left(tmp_path):
    (tmp_path / LEFT).write_text("half")
    assert create_durable(tmp_path / "notes", b"first")
    assert not create_durable(tmp_path / "notes", b"second")
    assert names(tmp_path) == ["notes"]
    assert (tmp_path / "notes").read_bytes() == b"first"


def test_a_folder_left_by_a_killed_writer_goes_and_one_that_is_held_stays(tmp_path):
    (tmp_path / ".notes.tmp-dead").mkdir()
    (tmp_path / ".notes.tmp-dead" / "file").write_text("half")

    def late() -> None:
        """Makes the same folder, and comes second."""
        with new_folder(tmp_path / "notes"):
            (tmp_path / "notes").mkdir()
            (tmp_path / "notes" / "file").write_text("of another process")

    with new_folder(tmp_path / "notes") as first:
        with pytest.raises(ValueError, match="exists already"):
            late()
        assert names(tmp_path) == sorted([first.name, "notes"])
        (tmp_path / "notes" / "file").unlink()
    assert names(tmp_path) == ["notes"]


def test_the_former_folder_stays_while_it_is_the_only_one(tmp_path):
    """As after a kill between the two renames."""
    (tmp_path / ".notes.old-1234abcd").mkdir()
    (tmp_path / ".notes.tmp-1234abcd").mkdir()
    remove_abandoned(tmp_path / "notes")
    assert names(tmp_path) == [".notes.old-1234abcd"]
    with new_folder(tmp_path / "notes", replace=True) as folder:
        assert names(tmp_path) == [".notes.old-1234abcd", folder.name]
    assert names(tmp_path) == ["notes"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="notes"):
        write_durable(tmp_path / "notes", b"whole")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_library_that_has_an_error_of_its_own_for_a_disk(number, tmp_path):
    with pytest.raises(OSError, match="notes") as caught, new_folder(tmp_path / "notes"):
        raise RuntimeError(f"open() failed: {os.strerror(number)}; opening rows-0")
    assert caught.value.errno == number
    assert names(tmp_path) == []
    with pytest.raises(RuntimeError, match="something else"), disk_errors(tmp_path):
        raise RuntimeError("something else")
