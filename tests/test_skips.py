"""A skip is a failure in continuous integration, wherever it happens; `allowed_skips.txt` lists the exceptions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "test_some.py": """
import pytest

@pytest.fixture
def absent():
    pytest.skip("no such fixture here")

def test_passes(): pass
def test_skips_in_its_body(): pytest.skip("not today")
def test_skips_in_its_fixture(absent): pass
@pytest.mark.skipif(True, reason="a mark")
def test_skips_by_a_mark(): pass
def test_skips_for_an_allowed_reason(): pytest.skip("no Chromium on this machine")
@pytest.mark.xfail(reason="known", strict=True)
def test_fails_as_expected(): assert False
""",
    "test_module.py": """
import pytest
pytest.skip("the whole module", allow_module_level=True)
""",
    "test_import.py": """
import pytest
pytest.importorskip("a_module_that_nobody_has")
def test_never_seen(): pass
""",
    "test_allowed_module.py": """
import pytest
pytest.skip("no Chromium on this machine", allow_module_level=True)
""",
}


def results(folder: Path, *options: str, ci: str | None) -> set[tuple[str, str]]:
    """Runs pytest with this project's `conftest.py`; returns (outcome, name of a test or of a module)."""
    for name, source in MODULES.items():
        (folder / name).write_text(source)
    environment = {name: value for name, value in os.environ.items() if name != "CI" and "PYTEST" not in name}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"CI": ci} if ci else {})
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", folder]
    command += ["--continue-on-collection-errors", "-rA", "--import-mode=importlib", *options, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == (1 if ci else 0), done.stdout
    lines = [line.split() for line in done.stdout.split("short test summary info")[1].splitlines()]
    outcomes = ("PASSED", "FAILED", "ERROR", "XFAIL", "SKIPPED")
    places = [(words[0], words[2] if words[0] == "SKIPPED" else words[1]) for words in lines if words[0] in outcomes]
    return {(outcome, place.split("::")[-1].split(":")[0]) for outcome, place in places}


@pytest.mark.parametrize("options", [(), ("--numprocesses=2",)], ids=["one process", "workers"])
def test_a_skip_is_a_failure_in_continuous_integration(options, tmp_path):
    passed = {("PASSED", "test_passes"), ("XFAIL", "test_fails_as_expected")}
    assert results(tmp_path, *options, ci="true") == passed | {
        ("FAILED", "test_skips_in_its_body"),
        ("ERROR", "test_skips_in_its_fixture"),
        ("ERROR", "test_skips_by_a_mark"),
        ("ERROR", "test_module.py"),
        ("ERROR", "test_import.py"),
        ("SKIPPED", "test_some.py"),
        ("SKIPPED", "test_allowed_module.py"),
    }


def test_a_skip_is_a_skip_elsewhere(tmp_path):
    modules = ("test_some.py", "test_module.py", "test_import.py", "test_allowed_module.py")
    assert results(tmp_path, ci=None) == {
        ("PASSED", "test_passes"),
        ("XFAIL", "test_fails_as_expected"),
        *(("SKIPPED", module) for module in modules),
    }
