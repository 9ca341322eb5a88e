"""A backbone folder is whole and unaltered, or it does not load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backbone.errors import InputError
from backbone.storage import kept_backbone, load_backbone, read_record
from backbone.trees import content_hash, flatten, unflatten
from tests.tiny import make_tiny_backbone

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tiny_path, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_path, tmp_path / "backbone"))


def test_round_trip(tiny):
    again = load_backbone(tiny.path)
    assert again.weights_id == tiny.weights_id
    assert again.lengths == (8, 12, 16, 20, 24, 32, 48, 64)


def test_ids_depend_on_every_weight_and_on_the_architecture(tiny, tmp_path):
    other = load_backbone(make_tiny_backbone(tmp_path / "other", seed=2))
    assert other.weights_id != tiny.weights_id
    assert other.preprocessing_id == tiny.preprocessing_id
    leaves = flatten(tiny.params)
    reference = content_hash(tiny.params, "x")
    assert content_hash(tiny.params, "y") != reference
    for path in list(leaves)[::7]:
        changed = np.array(leaves[path])
        changed.reshape(-1)[-1] += 1e-3
        assert content_hash(unflatten({**leaves, path: changed}), "x") != reference


def test_a_flipped_byte_in_any_file_is_an_error(copy):
    """Every file of the folder, a byte in its middle; files that Orbax does not read may load unchanged."""
    before = read_record(copy).weights_id
    refused = 0
    for file in sorted(p for p in copy.rglob("*") if p.is_file() and p.stat().st_size):
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
        try:
            assert load_backbone(copy).weights_id == before, f"{file.name}: loaded as another backbone"
        except InputError:
            refused += 1
        file.write_bytes(whole)
    load_backbone(copy)
    assert refused >= 3, "weights, tokenizer and description at least"


def test_truncated_weights(copy):
    largest = max((p for p in (copy / "weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(InputError, match="weights"):
        load_backbone(copy)


def test_damaged_weights_print_nothing_later(copy):
    """Reads that fail beside the reported one would each print a traceback when they are collected."""
    (manifest,) = (copy / "weights").rglob("state/manifest.ocdbt")
    whole = manifest.read_bytes()
    middle = len(whole) // 2
    manifest.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
    code = "from pathlib import Path; from backbone.storage import load_backbone; load_backbone(Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"import sys; {code}", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "not readable as an Orbax checkpoint" in done.stderr
    assert "never retrieved" not in done.stderr


def test_not_a_backbone(tmp_path, copy):
    with pytest.raises(InputError, match="import-backbone"):
        load_backbone(tmp_path)
    record = json.loads((copy / "backbone.json").read_text())
    (copy / "backbone.json").write_text(json.dumps(record | {"schema": 99}))
    with pytest.raises(InputError, match="schema"):
        load_backbone(copy)


def test_a_backbone_is_kept_while_no_file_of_it_changes(copy, tmp_path):
    first = kept_backbone(copy)
    assert kept_backbone(copy) is first
    assert kept_backbone(copy, precision="bfloat16").precision == "bfloat16"
    again = kept_backbone(copy)
    assert (again.weights_id, again.precision) == (first.weights_id, "float32")
    shutil.rmtree(copy)
    make_tiny_backbone(copy, seed=2)
    other = kept_backbone(copy)
    assert other.weights_id == load_backbone(copy).weights_id != first.weights_id
    file = max((p for p in copy.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
    with pytest.raises(InputError):
        kept_backbone(copy)
