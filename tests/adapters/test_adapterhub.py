"""Bottleneck adapters against AdapterHub's `adapters`, through a file that it wrote (`make goldens-adapterhub`)."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from adapters.model import GraftModel
from adapters.specs import Bottleneck, TokenTagging
from backbone.buckets import pad
from backbone.trees import flatten, unflatten
from tests.families import token_rows
from tests.goldens.read import golden

SPECS = {
    "houlsby": Bottleneck(width=8, placement="houlsby", activation="silu"),
    "pfeiffer": Bottleneck(width=8, placement="pfeiffer", activation="relu"),
    "parallel": Bottleneck(width=8, placement="parallel", activation="relu", scale=4.0),
}


@pytest.mark.parametrize("placement", SPECS)
def test_states_equal_adapterhub(placement):
    stored = load_file(Path(__file__).resolve().parents[1] / "goldens" / "adapterhub.safetensors")
    own = {k.partition(".")[2]: v for k, v in stored.items() if k.startswith(f"{placement}.")}
    wanted = [own.pop(f"states.{i}") for i in range(3)]
    network, params, bare = golden("bert")
    model = GraftModel(network, (SPECS[placement],), TokenTagging(), ("a", "b"))
    leaves = {f"bottleneck.{path}": leaf.astype(np.float32) for path, leaf in own.items()}
    shapes = {path: leaf.shape for path, leaf in flatten(model.abstract()["adapter"]).items()}
    assert {path: leaf.shape for path, leaf in leaves.items()} == shapes
    rows = token_rows()
    ids, mask = pad(rows, 32)
    found = jax.jit(model.features)(params, unflatten(leaves), {"ids": ids, "mask": mask})
    for i, row in enumerate(rows):
        np.testing.assert_allclose(found[i, : len(row)], wanted[i], atol=1e-4)
        assert np.abs(wanted[i] - bare[i]).max() > 0.1, "the adapters show"
