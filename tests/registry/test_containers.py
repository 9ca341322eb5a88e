"""Users without a name or a home directory, and masks of rights, as containers have them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from backbone.errors import InputError
from backbone.files import create_durable, new_folder
from backbone.home import home
from registry.verbs import whoami


def test_a_user_without_a_name_is_a_number(monkeypatch):
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert whoami() == f"uid{os.getuid()}@{socket.gethostname()}"
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("TOPGRAFT_HOME", "cache")
    assert home() == Path("cache"), "nobody asks for a home directory"
    monkeypatch.delenv("TOPGRAFT_HOME")
    with pytest.raises(InputError, match="TOPGRAFT_HOME: not set, and this user has no home directory"):
        home()


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o775), (0o077, 0o700)])
def test_folders_have_the_rights_that_the_mask_leaves(mask, mode, tmp_path):
    former = os.umask(mask)
    try:
        with new_folder(tmp_path / "made") as folder:
            (folder / "file").write_text("")
    finally:
        os.umask(former)
    assert (tmp_path / "made").stat().st_mode & 0o777 == mode


def test_a_file_is_created_once_also_without_hard_links(tmp_path, monkeypatch):
    assert create_durable(tmp_path / "one", b"first")
    assert not create_durable(tmp_path / "one", b"second")

    def refuses(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuses)
    assert create_durable(tmp_path / "two", b"first")
    assert not create_durable(tmp_path / "two", b"second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"one": b"first", "two": b"first"}
