"""Meshes of eight virtual devices against one device: losses, bytes on a device, collectives, cached states.

All of it runs in one process of its own (`eight_devices.py`), since jax starts with a fixed number of devices.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
WHAT = ("masked_tokens", "supervised_images", "uncached graft", "cached graft")
# kinds of collectives in the compiled step, by mesh: of a backbone on images, and of a graft through the whole backbone
COLLECTIVES = {
    "data": {"all-reduce"},
    "fsdp": {"all-gather", "all-reduce"},
    "tensor": {"all-gather", "all-reduce", "collective-permute"},
    "data and tensor": {"all-gather", "all-reduce", "collective-permute"},
    "all three": {"all-gather", "all-reduce", "collective-permute"},
}
MESHES = tuple(COLLECTIVES)
COUNTERS = 24  # bytes of the step, the optimiser's counts and the sums that are logged
Results = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    command = [sys.executable, "-m", "tests.trainers.fitting.eight_devices", str(tmp_path_factory.mktemp("eight"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(line["what"], line["mesh"]): line for line in lines}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("what", WHAT)
def test_fifty_losses_are_those_of_one_device(results, what, mesh):
    losses, one = np.array(results[what, mesh]["losses"]), np.array(results[what, "one"]["losses"])
    assert len(losses) == 50
    np.testing.assert_allclose(losses, one, rtol=3e-5)
    assert np.ptp(one) > 1e-3, "something is learned"


def test_a_stored_trunk_is_cut_as_well(results):
    one, cut = (results["int8 graft", mesh] for mesh in ("one", "all three"))
    np.testing.assert_allclose(cut["losses"], one["losses"], rtol=1e-3)
    assert cut["losses"] != results["uncached graft", "all three"]["losses"]
    assert cut["argument bytes"] < 0.6 * one["argument bytes"]
    assert one["argument bytes"] < 0.5 * results["uncached graft", "one"]["argument bytes"]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("what", WHAT)
def test_bytes_of_a_device_are_those_of_the_rules(results, what, mesh):
    result = results[what, mesh]
    assert result["bytes by rule"] == result["bytes by shards"]
    if what != "cached graft":  # whose program leaves out the blocks below its boundary
        read = result["bytes by rule"] + result["batch bytes"]
        assert result["argument bytes"] == read + COUNTERS, "as compiled: weights, moments, what is fixed, rows"


@pytest.mark.parametrize(("mesh", "share"), [("data", 1.0), ("fsdp", 0.35), ("tensor", 0.7), ("all three", 0.55)])
def test_bytes_fall_with_fsdp_and_tensor(results, mesh, share):
    for what in ("masked_tokens", "supervised_images", "uncached graft"):
        bytes_on = [results[what, name]["argument bytes"] for name in (mesh, "one")]
        assert bytes_on[0] <= share * bytes_on[1]
        assert (share < 1) == (bytes_on[0] < 0.9 * bytes_on[1])


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("what", ["supervised_images", "uncached graft"])
def test_collectives_of_the_step(results, what, mesh):
    assert set(results[what, mesh]["collectives"]) == COLLECTIVES[mesh]
    assert results[what, "one"]["collectives"] == {}


def test_rows_alone_add_up_one_gradient(results):
    assert results["supervised_images", "data"]["collectives"]["all-reduce"] == 1


def test_states_that_several_devices_cached_are_those_of_one_bit_for_bit(results):
    states = {mesh: results["cached graft", mesh]["cached"] for mesh in ("one", "data", "fsdp")}
    assert states["data"] == states["one"]
