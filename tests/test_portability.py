"""The same code on CPU, CUDA and TPU: every program lowers for all three. And on a shared environment."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from adapters.forward import forward_program
from adapters.model import GraftModel
from adapters.specs import IA3, Bottleneck, Classification, Ladder, Lora, Probe
from backbone.storage import in_precision
from tests.adapters.test_heads import KINDS, task_of
from tests.methods import METHODS
from trainers.config import Optimizer
from trainers.fitting.step import first_state, make_optimizer, make_step, partition

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = ("cpu", "cuda", "tpu")
STORED = (Lora(rank=2, dropout=0.1), Bottleneck(width=4), IA3(), Probe(), Ladder(reduction=4))  # on stored kernels too
CASES = [(spec, precision) for spec in STORED for precision in ("bfloat16", "int8")]
CASES += [(spec, "float32") for spec in METHODS.values()]


def batch(labels: np.ndarray) -> dict[str, np.ndarray]:
    ids = np.ones((8, 16), np.int32)
    return {"ids": ids, "mask": np.ones((8, 16), bool), "labels": labels, "weights": np.ones(8, np.float32)}


@pytest.mark.parametrize(("spec", "precision"), CASES, ids=lambda part: getattr(part, "method", part))
def test_train_and_serve_functions_lower_for_every_platform(spec, precision, tiny):
    trunk = in_precision(tiny, precision).params
    model = GraftModel(tiny.network, (spec,), Classification(dropout=0.1), ("a", "b", "c"))
    params = model.init(jax.random.key(0))
    live, frozen = partition(params, lambda path: True)
    optimizer = make_optimizer(Optimizer(clip_norm=1.0, accumulate=2), 10)
    rows = batch(np.zeros(8, np.int32))
    step = make_step(model, optimizer, remat=True, seed=0)
    state = first_state(live, optimizer)
    forward, features = forward_program(model), jax.jit(model.features)
    lowered = (
        export.export(step, platforms=PLATFORMS)(state, {"backbone": trunk, "graft": frozen}, rows),
        export.export(forward, platforms=PLATFORMS)(trunk, params, rows["ids"], rows["mask"]),
        export.export(features, platforms=PLATFORMS)(trunk, params["adapter"], rows),
    )
    for exported in lowered:
        assert exported.platforms == PLATFORMS
    assert [a.shape for a in lowered[1].out_avals] == [(8, 3)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_of_every_head_lowers_for_every_platform(kind, tiny):
    task = task_of(kind)
    model = GraftModel(tiny.network, (Lora(rank=2),), task.head, task.names)
    live, frozen = partition(model.init(jax.random.key(0)), lambda path: True)
    labels = np.resize(task.labels, (8, *task.labels.shape[1:]))
    rows = batch(labels)
    if task.head.one_answer_per == "word":
        rows |= {"ids": rows["ids"][:, : labels.shape[1]], "mask": rows["mask"][:, : labels.shape[1]]}
    step = make_step(model, make_optimizer(Optimizer(), 10), remat=False, seed=0)
    state = first_state(live, make_optimizer(Optimizer(), 10))
    exported = export.export(step, platforms=PLATFORMS)(state, {"backbone": tiny.params, "graft": frozen}, rows)
    assert exported.platforms == PLATFORMS


def test_another_package_in_the_folder_of_ours_is_an_error(tmp_path):
    """AdapterHub's `adapters` installs into the same folder name; whichever pip wrote last would win."""
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "__init__.py").write_text("__version__ = '1.2.0'\n")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import topgraft; topgraft.load('x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "is not Topgraft's" in done.stderr
    assert "Never install both" in done.stderr


def test_every_package_of_the_checkout_is_installed():
    """Variants are found by their folders, so a folder that a wheel leaves out is a variant that nobody finds."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    roots = ("backbone", "adapters", "trainers", "registry", "serving", "metering")
    folders = {file.parent for root in roots for file in (ROOT / root).rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert packages == {name for name in listed if not name.startswith("topgraft_configs")}
