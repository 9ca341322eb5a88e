"""Which Python `make` takes: one that runs, the recommended version first, and what is there or named before that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
SHIM = "#!/bin/sh\nexit 127\n"  # what a shim of pyenv does for a version that nothing names
PYTHON = f'#!/bin/sh\nexec {sys.executable} "$@"\n'


def program(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def called(*words: str, path: list[Path], home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": ":".join(map(str, [*path, "/usr/bin", "/bin"])), "HOME": str(home)}
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def search(*versions: str, path: list[Path], home: Path) -> tuple[int, str]:
    done = called("sh", "scripts/find_python.sh", *versions, path=path, home=home)
    return done.returncode, done.stdout.strip()


def test_a_python_that_does_not_run_is_passed_over(tmp_path):
    shims, real = tmp_path / "shims", tmp_path / "real"
    for version in ("3.97", "3.98"):
        program(shims / f"python{version}", SHIM)
    program(shims / f"python{VERSION}", SHIM)
    present = program(real / f"python{VERSION}", PYTHON)
    program(real / "python3.98", PYTHON)  # it runs, and is another version than its name says
    assert search("3.98", "3.97", VERSION, path=[shims, real], home=tmp_path) == (0, str(present))
    assert search("3.98", "3.97", path=[shims, real], home=tmp_path) == (1, "")


def test_pyenv_is_looked_through_where_its_shims_do_not_run(tmp_path):
    shims = tmp_path / ".pyenv" / "shims"
    program(shims / f"python{VERSION}", SHIM)
    folder = tmp_path / ".pyenv" / "versions" / f"{VERSION}.7" / "bin"
    present = program(folder / f"python{VERSION}", PYTHON)
    (status, python) = search("3.97", VERSION, path=[shims], home=tmp_path)
    assert (status, python) in ((0, str(present)), (0, f"/usr/bin/python{VERSION}"))


def recipe(*words: str) -> str:
    """Returns what `make` would run for an environment."""
    silent = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "PYTHON", "VENV")}
    done = subprocess.run(
        ["make", "-n", *words], capture_output=True, text=True, check=True, cwd=ROOT, env=silent, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("python", ["", f"PYTHON={sys.executable}"])
def test_an_environment_is_made_once_and_again_for_another_version_that_is_named(python, tmp_path):
    """The lines of `make` that make the environment, run in a shell."""
    words = (f"VENV={tmp_path}/venv", *filter(None, [python]), f"{tmp_path}/venv/base")
    line = next(line for line in recipe(*words).splitlines() if "-m venv" in line)
    made = re.search(r"\|\| (\S+) -m venv --clear", line)
    assert made is not None
    assert made[1] == sys.executable or not python
    stand_in = line.replace(f"{made[1]} -m venv --clear", "echo made")
    for inside, expected in ((None, "made"), (PYTHON, ""), ("#!/bin/sh\necho '(3, 9)'\n", "made" if python else "")):
        if inside is not None:
            program(tmp_path / "venv" / "bin" / "python", inside)
        done = subprocess.run(["sh", "-c", stand_in], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.split(" ")[0].strip()) == (0, expected), done.stderr
