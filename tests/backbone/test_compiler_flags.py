"""The flag that this jaxlib needs is added in every process, to whatever flags are set, and only where it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbone import compiler_flags
from backbone.compiler_flags import NEEDED, jaxlib_version, names

ROOT = Path(__file__).resolve().parents[2]
NAME = "--xla_cpu_experimental_ynn_fusion_type"
FLAG = f"{NAME}=-reduce"


def said(script: str, flags: str | None) -> list[str]:
    """Gives what a process prints that has these flags."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    environment |= {} if flags is None else {"XLA_FLAGS": flags}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def test_the_version_is_read_without_an_import():
    import jaxlib

    assert jaxlib_version() == jaxlib.__version__
    script = "import sys, backbone; print('jaxlib' in sys.modules, 'importlib.metadata' in sys.modules)"
    assert said(script, None) == ["False False"]


@pytest.mark.parametrize(
    "package", ["backbone", "topgraft", "adapters.machine", "trainers.commands", "serving.commands"]
)
def test_every_package_sets_the_flag(package):
    expected = NEEDED.get(jaxlib_version(), "")
    assert said(f"import os, {package}; print(os.environ.get('XLA_FLAGS', ''))", None) == [expected]


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", "", FLAG),
        ("0.10.2", "--xla_backend_optimization_level=0", f"--xla_backend_optimization_level=0 {FLAG}"),
        ("0.10.2", f"{NAME}=dot --xla_dump_to=x", f"{NAME}=dot --xla_dump_to=x"),
        ("0.10.2", f"{NAME}_other=dot", f"{NAME}_other=dot {FLAG}"),
        ("0.10.1", "", ""),
        ("0.11.2", "--xla_dump_to=x", "--xla_dump_to=x"),
        ("", "", ""),
    ],
)
def test_the_flag_is_appended_where_it_is_needed(version, before, after, monkeypatch):
    monkeypatch.setattr(compiler_flags, "jaxlib_version", lambda: version)
    monkeypatch.setattr(compiler_flags, "_started", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", before)
    compiler_flags.add_needed()
    assert os.environ["XLA_FLAGS"] == after
    compiler_flags.add_needed()
    assert os.environ["XLA_FLAGS"] == after, "once"


def test_a_file_of_flags_is_kept(tmp_path, monkeypatch):
    (tmp_path / "flags").write_text("--xla_dump_to=x\n")
    monkeypatch.setattr(compiler_flags, "jaxlib_version", lambda: "0.10.2")
    monkeypatch.setattr(compiler_flags, "_started", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    compiler_flags.add_needed()
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=x {FLAG}"


def test_names_are_whole():
    assert names(f"--a=1 {NAME}", FLAG)
    assert not names(f"{NAME}s=1", FLAG)


def test_a_backend_that_has_started_keeps_its_flags():
    """jax has read its flags by then; to change the variable would only hide which ones are at work."""
    script = "import os, jax; jax.devices(); import backbone; print(os.environ.get('XLA_FLAGS', ''))"
    assert said(script, None) == [""]
