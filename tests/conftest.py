"""Shared fixtures: a private home, a tiny random backbone, the embedded MiniLM, the shared data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Before anything imports jax: one private home for the whole run, CPU only.
_HOME = tempfile.TemporaryDirectory(prefix="topgraft-tests-")
os.environ["TOPGRAFT_HOME"] = os.environ.get("TOPGRAFT_TEST_HOME", _HOME.name)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the console script sets it: the last bits hang on it
# Tests compile the same small programs again and again: every one of them is kept for the run, in one folder
# for all workers of pytest-xdist, which inherit this variable.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compiling is most of what the tests do. Without LLVM's optimisations a program compiles in two fifths of the time. By
# the older emitters of fusions and in one piece it compiles in an eighth, on the jaxlib that still has them.
# `make test-shipped` runs some of exactness without these flags, `make soak` all of these, and `XLA_FLAGS= make test`
# everything. The flag that this jaxlib needs is added by `backbone.compiler_flags`, as for users.
FAST = "--xla_backend_optimization_level=0"
if version("jaxlib") == "0.10.2":
    FAST += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", FAST)
os.environ.setdefault("TOPGRAFT_TEST_PROGRAMS", str(Path(os.environ["TOPGRAFT_HOME"]) / "programs"))

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
ALLOWED_SKIPS = {
    line.strip()
    for line in (ROOT / "tests" / "allowed_skips.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}

from tests.home import linked  # noqa: E402

linked(Path(os.environ["TOPGRAFT_HOME"]))

from tests.registry.postgres import Postgres, binaries, running  # noqa: E402
from tests.tiny import COMPACT, make_tiny_backbone, write_config  # noqa: E402


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written into the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs_are_kept() -> None:
    from backbone.home import use_compilation_cache

    use_compilation_cache()


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone folder: BERT of 3 blocks, width 32, random weights, a WordPiece of 200 words."""
    return make_tiny_backbone(tmp_path_factory.mktemp("tiny") / "backbone")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path):
    from backbone.storage import load_backbone

    return load_backbone(tiny_path)


@pytest.fixture(scope="session")
def compact_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone folder: as `tiny_path`, of 4 blocks and lean in every way."""
    return make_tiny_backbone(tmp_path_factory.mktemp("compact") / "backbone", spec=COMPACT)


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The embedded all-MiniLM-L6-v2, imported once."""
    from backbone.home import resolve_backbone

    return resolve_backbone("minilm")


@pytest.fixture(scope="session")
def minilm(minilm_path: Path):
    from backbone.storage import load_backbone

    return load_backbone(minilm_path)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public data sets: `TOPGRAFT_DATA`, default `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("TOPGRAFT_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not (folder / "README.md").is_file():
        pytest.skip(f"shared data are absent ({folder}); set TOPGRAFT_DATA")
    return folder


@pytest.fixture
def config(tiny_path, tmp_path) -> Path:
    """A config script on the tiny backbone, with small separable texts beside it."""
    return write_config(tmp_path / "config.py", tiny_path, tmp_path, optimizer="Optimizer(learning_rate=5e-3)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this run."""
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed")
    with running(folder) as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On an accelerator, reports tests of equal bits as expected failures, or as passed in spite of it."""
    if os.environ["JAX_PLATFORMS"] == "cpu":
        return
    for item in items:
        if item.get_closest_marker("cpu_bits"):
            item.add_marker(pytest.mark.xfail(reason="equal bits are promised on a CPU alone", strict=False))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Fails a test that skips in continuous integration."""
    outcome = yield
    _refuse_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Fails a module that skips as a whole in continuous integration."""
    outcome = yield
    _refuse_skip(outcome.get_result())


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Makes a skip a failure in continuous integration, unless its reason is in `allowed_skips.txt`."""
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        if reason not in ALLOWED_SKIPS:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, and not in tests/allowed_skips.txt: {reason}"
