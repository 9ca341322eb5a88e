"""`topgraft parent`: an adapter in the trunk, stored as what it adds, and grafts of several tasks on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import topgraft
from adapters.artefact.upload import upload
from adapters.specs import Bottleneck, Lora, Probe
from backbone.errors import InputError
from backbone.network.updates import UPDATES_FILE
from backbone.storage import load_backbone
from serving.bank import Envelope
from serving.runtime import Runtime
from tests.command import call
from tests.grafts import make
from tests.serving.grafts import TEXTS
from tests.tiny import as_json, make_tiny_backbone, rows, write_config, write_csv
from trainers.config.load import load_config
from trainers.parent import ParentTrunk, parent
from trainers.train import train

SITES = ("attention/*", "mlp/*")


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> ParentTrunk:
    """The tiny trunk with a LoRA of random numbers at all of its sites."""
    folder = tmp_path_factory.mktemp("parent")
    make(folder / "graft", tiny, Lora(rank=3, alpha=5.0, sites=SITES), noise=0.1)
    return parent(folder / "graft", folder / "trunk", backbone=str(tiny.path))


@pytest.fixture(scope="module")
def trunk(made):
    return load_backbone(made.path)


def graft_of(made: ParentTrunk) -> Path:
    return Path(made.path).parent / "graft"


def head_alone(graft, backbone):
    """The logits of a graft's head on a backbone without its adapter."""
    make(Path(backbone.path.name), backbone, Probe())
    bare = topgraft.load(backbone.path.name, backbone)
    bare.params["head"].update(graft.params["head"])
    return bare.logits(TEXTS)


def test_the_trunk_answers_as_the_graft_did(made, trunk, tiny):
    graft = topgraft.load(graft_of(made), tiny)
    assert trunk.weights_id == made.weights_id != tiny.weights_id
    np.testing.assert_allclose(head_alone(graft, trunk), graft.logits(TEXTS), rtol=1e-4, atol=1e-4)
    assert np.abs(head_alone(graft, tiny) - graft.logits(TEXTS)).max() > 0.1, "the adapter changes what is answered"


def test_its_kernels_are_those_of_the_base_and_the_product(made, trunk, tiny):
    leaves = topgraft.load(graft_of(made), tiny).params["adapter"]["lora"]["1"]
    kernel = np.asarray(tiny.params["blocks"]["1"]["attention"]["qkv"]["kernel"])
    sites = [leaves[f"attention/{name}"] for name in ("query", "key", "value")]
    parts = [np.asarray(site["a"]) @ np.asarray(site["b"]) for site in sites]
    expected = kernel + 5.0 / 3 * np.concatenate(parts, axis=1)
    np.testing.assert_allclose(trunk.params["blocks"]["1"]["attention"]["qkv"]["kernel"], expected, atol=1e-5)
    untouched = [part["blocks"]["1"]["mlp"]["down"]["bias"] for part in (trunk.params, tiny.params)]
    np.testing.assert_array_equal(*untouched)


def test_it_is_stored_as_what_it_adds(made, trunk, tiny, tmp_path):
    files = {file.name: file.stat().st_size for file in Path(made.path).iterdir()}
    assert files.keys() == {"backbone.json", UPDATES_FILE}
    assert files[UPDATES_FILE] < 4 * made.parameters + 5000
    assert (made.sites, made.bytes) == (6 * 3, sum(files.values()))
    assert (trunk.preprocessing_id, trunk.spec) == (tiny.preprocessing_id, tiny.spec)
    again = parent(graft_of(made), tmp_path / "again", backbone=str(tiny.path))
    assert again.weights_id == made.weights_id, "one graft, one trunk"


def test_base_and_trunk_may_move_together(made, tiny_path, tmp_path):
    shutil.copytree(tiny_path, tmp_path / "old" / "base")
    parent(graft_of(made), tmp_path / "old" / "trunk", backbone=str(tmp_path / "old" / "base"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert load_backbone(tmp_path / "new" / "trunk").weights_id == made.weights_id


def test_it_is_not_uploaded_without_its_base(made):
    with pytest.raises(InputError, match="Write it whole: topgraft export-backbone"):
        upload(made.path, "s3://bucket/trunk")


def test_any_precision_and_another_parent_on_top(made, trunk, tmp_path):
    assert load_backbone(made.path, precision="int8").base_id == made.weights_id
    make(tmp_path / "graft", trunk, Lora(rank=1))
    second = parent(tmp_path / "graft", tmp_path / "second", backbone=made.path)
    assert second.base == made.weights_id
    assert load_backbone(second.path).weights_id == second.weights_id


def test_states_are_computed_once_for_all_tasks_on_it(made, tmp_path):
    script = write_config(tmp_path / "config.py", Path(made.path), tmp_path)
    settings = ("adapter.method=probe", "precision=float32")
    first = train(load_config(script, settings), tmp_path / "first")
    table = [(text, str(len(text.split()))) for text, _ in rows(240, seed=1)]  # other labels of the same texts
    write_csv(tmp_path / "lengths.csv", table)
    other = train(load_config(script, (*settings, "data.train=lengths.csv", "data.test=")), tmp_path / "other")
    assert first.rows_computed > 0
    assert other.rows_computed == 0
    assert first.metrics["test"]["accuracy"] > 0.8


def test_two_children_are_served_beside_each_other(trunk, tmp_path):
    for name, method in (("one", Lora(rank=2, blocks="2:")), ("two", Bottleneck(width=4, blocks="2:"))):
        make(tmp_path / name, trunk, method, seed=len(name))
    children = {name: topgraft.load(tmp_path / name, trunk) for name in ("one", "two")}
    envelope = Envelope.around([child.model for child in children.values()], slots=2, labels=4)
    with Runtime(trunk, envelope, buckets=(24,), batch_sizes=(8,), max_wait=0.05) as runtime:
        for name, child in children.items():
            runtime.load(name, child)
        pending = runtime.submit([(name, text) for text in TEXTS[:4] for name in children])
        answers = [one.future.result(120) for one in pending]
    for number, text in enumerate(TEXTS[:4]):
        for place, child in enumerate(children.values()):
            np.testing.assert_allclose(answers[2 * number + place][:3], child.logits([text])[0], atol=1e-4)


def test_what_it_refuses(made, trunk, tiny, compact_path, tmp_path, capsys):
    make(tmp_path / "child", trunk)
    with pytest.raises(InputError, match=r"another backbone|belongs to"):
        topgraft.load(tmp_path / "child", tiny)
    make(tmp_path / "bottleneck", tiny, Bottleneck(width=2))
    compact = load_backbone(compact_path)
    make(tmp_path / "compact", compact, Lora(rank=2))
    for graft, below, message in (
        ("bottleneck", tiny.path, "only grafts of one lora"),
        ("compact", compact_path, "share weights"),
        (graft_of(made), made.path, "backbone"),
    ):
        status, _, err = call("parent", graft, "--backbone", below, "--out", "refused", capsys=capsys)
        assert (status, message in err) == (2, True), err
        assert not Path("refused").exists()


def test_a_damaged_or_lonely_folder_is_named(made, tmp_path):
    place = Path(shutil.copytree(made.path, tmp_path / "damaged"))
    content = bytearray((place / UPDATES_FILE).read_bytes())
    content[-3] ^= 1
    (place / UPDATES_FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"weights_id is .* altered"):
        load_backbone(place)
    (place / UPDATES_FILE).write_bytes(content[:40])
    with pytest.raises(InputError, match="holds no updates"):
        load_backbone(place)
    (place / UPDATES_FILE).unlink()
    with pytest.raises(InputError, match=r"updates.safetensors: missing"):
        load_backbone(place)
    record = json.loads((place / "backbone.json").read_text())
    record["source"]["base_path"] = str(make_tiny_backbone(tmp_path / "other", seed=9))
    (place / "backbone.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="its base trunk cannot be read"):
        load_backbone(place)


def test_one_adapter_is_trained_over_several_tasks(tiny_path, tmp_path, capsys):
    """Two tasks that name the same texts oppositely: no single head could answer both, and each task's own does."""
    script = write_config(
        tmp_path / "config.py",
        tiny_path,
        tmp_path,
        head="Tasks()",
        optimizer="Optimizer(learning_rate=5e-3)",
        epochs="4",
    )
    turned = {"class0": "class1", "class1": "class2", "class2": "class0"}
    for name, seed in (("train", 1), ("test", 2)):
        table = rows(240, seed=seed)
        both = [(text, f"plain/{label}") for text, label in table[::2]]
        both += [(text, f"turned/{turned[label]}") for text, label in table[1::2]]
        write_csv(tmp_path / f"{name}.csv", both)
    status, out, err = call("train", script, "--workdir", "run", "--json", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["metrics"]["test"]["accuracy"] > 0.8
    (answer,) = topgraft.load("run/graft").predict(rows(1, seed=3)[0][:1])
    plain, other = answer.labels
    assert (plain.split("/")[0], other) == ("plain", f"turned/{turned[plain.removeprefix('plain/')]}")
    status, out, err = call("parent", "run/graft", "--out", "trunk", "--json", capsys=capsys)
    assert status == 0, err
    child = write_config(tmp_path / "child.py", Path("trunk"), tmp_path)
    result = train(load_config(child, ("adapter.method=probe", "precision=float32")), tmp_path / "child")
    assert result.metrics["test"]["accuracy"] > 0.9


def test_labels_without_a_task_are_refused(tiny_path, tmp_path, capsys):
    script = write_config(tmp_path / "config.py", tiny_path, tmp_path, head="Tasks()")
    status, _, err = call("train", script, capsys=capsys)
    assert (status, "'class0' names no task" in err) == (2, True), err
    table = rows(60)
    write_csv(tmp_path / "train.csv", [(text, f"t/{label}") for text, label in table] + [(table[0][0] + " ban", "u/a")])
    status, _, err = call("train", script, capsys=capsys)
    assert (status, "task 'u' has one label only" in err) == (2, True), err
