"""docs/extending.md: every file that it shows is put where it says, and passes its own tests and the shared suites."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes import FILES

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("backbone", "metering", "adapters", "registry", "trainers", "serving", "configs", "tests")
# recipe: (files of tests to run there, names that choose the new member)
SUITES = {
    "hira": ("tests/adapters/test_methods.py",),
    "last_states": ("tests/adapters/test_methods.py",),
    "thaw": ("tests/trainers/test_schedules.py", "tests/trainers/test_thaw.py"),
    "fasttext": ("tests/trainers/test_fasttext.py",),
    "electra": ("tests/backbone/test_electra.py",),
    "ordinal": ("tests/adapters/test_ordinal.py",),
    "classify": ("tests/serving/test_classify.py",),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the page's files in it; each of them is new."""
    place = tmp_path_factory.mktemp("extending")
    for name in COPIED:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "results", "former"))
    for name in ("topgraft.py", "pyproject.toml"):
        shutil.copy(ROOT / name, place / name)
    for path, content in FILES.items():
        assert not (place / path).exists(), f"{path} is in the tree already"
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(content, encoding="utf-8")
    return place


def production(tag: str) -> list[str]:
    """Returns the production files of a recipe."""
    return [path for path in FILES if Path(path).stem == tag and not path.startswith("tests/")]


@pytest.mark.parametrize("tag", SUITES)
def test_a_recipe_is_one_production_file_that_passes_its_tests(tag, tree):
    assert len(production(tag)) == 1
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *SUITES[tag]]
    own = [path for path in SUITES[tag] if Path(path).stem == f"test_{tag}"]
    chosen = ["-k", " or ".join([tag, *(Path(path).stem for path in own)])]
    done = subprocess.run(
        [*command, *chosen],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 1
