"""What the home can do without is removed once nobody has used it for some days."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backbone.copies import DAY, remove_unused, sizes, used
from backbone.errors import InputError
from tests.command import ROOT, call
from tests.tiny import as_json
from trainers.cache import caches

NAME = "0123456789abcdef" * 2


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def made(folder: Path, days: float) -> Path:
    """A folder with 100 bytes in a file, used so many days ago."""
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "file").write_bytes(bytes(100))
    then = time.time() - days * DAY
    os.utime(folder, (then, then))
    return folder


def test_what_nobody_has_used_is_removed(home):
    old = [
        made(home / "streams" / NAME, 3),
        made(home / "remote" / NAME, 2.1),
        made(home / "stores" / NAME / (2 * NAME), 9),
    ]
    late = made(home / "remote" / NAME[::-1], 1.9)
    assert sizes() == {"streams": 100, "remote": 200, "stores": 100}
    assert sorted(remove_unused(2)) == sorted(map(str, old))
    assert not any(folder.exists() for folder in old)
    assert late.exists()
    assert sizes() == {"streams": 0, "remote": 100, "stores": 0}
    assert not [file.name for file in (home / "streams").iterdir()], "nothing is left of it"


def test_what_is_used_is_new(home):
    folder = made(home / "remote" / NAME, 30)
    used(folder)
    assert remove_unused(1) == []
    used(home / "remote" / "absent")  # gone meanwhile: no error


def test_what_a_process_reads_stays_until_it_ends(home):
    folder = made(home / "streams" / NAME, 30)
    code = f"""
import os, sys, time
from pathlib import Path
from backbone.copies import used
folder = Path({str(folder)!r})
used(folder, hold=True)
used(folder, hold=True)
then = time.time() - 30 * 86400
os.utime(folder, (then, then))
print("held", flush=True)
sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    reader = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)
    assert reader.stdout.readline() == b"held\n"
    assert remove_unused(2) == []
    assert folder.exists()
    reader.kill()
    reader.wait()
    assert remove_unused(2) == [str(folder)]


def test_a_corpus_that_is_being_tokenised_stays(home):
    partial = made(home / "streams" / f"{NAME}.partial", 30)
    assert remove_unused(2) == [], "it has no lock: nobody knows who makes it"
    lock = home / "streams" / f"{NAME}.lock"
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_unused(2) == []
    assert remove_unused(2) == [str(partial)]
    assert lock.exists()


def test_what_the_home_did_not_make_stays(home, tmp_path):
    mine = [made(home / "streams" / "mine", 30), made(home / "stores" / NAME / "registries", 30)]
    elsewhere = made(tmp_path / "elsewhere", 30)
    (home / "remote").mkdir()
    (home / "remote" / NAME).symlink_to(elsewhere)
    (home / "stores" / NAME / "store.json").write_text("{}")
    backbones = made(home / "backbones" / NAME, 30)
    assert remove_unused(1) == []
    assert all(folder.exists() for folder in (*mine, elsewhere, backbones, home / "stores" / NAME / "store.json"))


def test_by_the_verb(home, capsys):
    old = made(home / "streams" / NAME, 8)
    status, out, _ = call("cache", "stat", "--json", capsys=capsys)
    assert (status, as_json(out)["copies"]["streams"]) == (0, 100)
    status, out, _ = call("cache", "gc", "--unused-days", "9", "--json", capsys=capsys)
    assert (status, as_json(out)["removed"]) == (0, [])
    status, out, _ = call("cache", "gc", "--json", capsys=capsys)
    assert old.exists(), "without the option nothing is removed but segments"
    status, out, _ = call("cache", "gc", "--unused-days", "7", "--json", capsys=capsys)
    assert (status, as_json(out)["removed"], as_json(out)["copies"]["streams"]) == (0, [str(old)], 0)
    for action, days, says in (("stat", 3, "belongs to `cache gc`"), ("gc", 0, "must be at least 1")):
        with pytest.raises(InputError, match=says):
            caches(action, unused_days=days)
