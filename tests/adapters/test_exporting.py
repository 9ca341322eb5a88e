"""An exported folder answers as the graft does, in a process that knows nothing of Topgraft."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special

import topgraft
from adapters.artefact.manifest import Training
from adapters.artefact.scope import scope_of
from adapters.export.compiled import export_jax
from adapters.specs import Classification, Ladder, Lora, MultiLabel, Regression, TokenTagging, Vera
from backbone.errors import InputError
from tests.command import call
from tests.grafts import LABELS, make
from tests.tiny import as_json, rows

TEXTS = [text for text, _ in rows(11, seed=4)] + ["", "Ünknown wörds", "ban ban " * 40]
SCRIPT = """
import json, runpy, sys
folder, texts = sys.argv[1], json.load(sys.stdin)
names = runpy.run_path(folder + "/run.py")
model = names["Model"](folder)
outputs = {name: value.tolist() for name, value in model.outputs(model.encode(texts)).items()}
print(json.dumps({"outputs": outputs, "answers": list(model.predict(texts)),
    "ours": sorted({"topgraft", "adapters", "backbone", "flax", "safetensors", "optax"} & set(sys.modules))}))
"""


def alone(folder: Path, texts: list[str], script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that sees neither this checkout nor its environment variables."""
    home = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-I", "-c", script, str(folder)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder.parent,
        env={**home, "JAX_PLATFORMS": "cpu"},
    )


def scope_for(backbone, abstain: bool):
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(60, backbone.spec.width)).astype(np.float32), np.arange(60) % 3
    return scope_of(features, np.eye(3)[labels], features[:20] * 3, 2, 0.1, abstain)


@pytest.mark.parametrize(
    ("spec", "head", "abstain"),
    [
        (Lora(rank=2), Classification(), True),
        (Ladder(reduction=4), MultiLabel(), None),
        (Vera(rank=4), Regression(spread=2.0), None),
    ],
)
def test_the_runner_alone_gives_the_logits_of_the_graft(tiny, tmp_path, spec, head, abstain):
    buckets = (24, 48) if abstain else (48,)
    scope = None if abstain is None else scope_for(tiny, abstain)
    training = Training({"target": {"max_memory_mb": 0.001}}, {}, {}, {}, {}, {})
    make(tmp_path / "graft", tiny, spec, head, scope=scope, training=training)
    graft = topgraft.load(tmp_path / "graft", tiny)
    made = export_jax(tmp_path / "graft", tmp_path / "edge", backbone=tiny.path, buckets=buckets, batch=4)
    assert (made.buckets, made.batch, made.platforms) == (buckets, 4, ("cpu", "cuda", "tpu"))
    assert made.size_mb == pytest.approx(sum(p.stat().st_size for p in (tmp_path / "edge").iterdir()) / 1e6)
    weights = (tmp_path / "edge" / "weights.npz").stat().st_size / 1e6
    assert 0.8 * weights < made.memory_mb < weights + 20
    assert (made.max_memory_mb, made.within_target) == (0.001, False)
    assert made.largest_difference < 1e-4

    done = alone(tmp_path / "edge", TEXTS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ours"] == []
    logits = graft.logits(TEXTS)
    np.testing.assert_allclose(found["outputs"]["logits"], logits, atol=1e-5, rtol=1e-5)
    answers = graft.predict(TEXTS)
    if isinstance(head, Regression):
        np.testing.assert_allclose([a["value"] for a in found["answers"]], [a.value for a in answers], rtol=1e-4)
        return
    wanted = scipy.special.softmax(logits, axis=1) if abstain is not None else scipy.special.expit(logits)
    np.testing.assert_allclose(found["outputs"]["probabilities"], wanted, atol=1e-5)
    assert [tuple(a["labels"]) for a in found["answers"]] == [a.labels for a in answers]
    assert [next(iter(a["probabilities"])) for a in found["answers"]] == [next(iter(a.probabilities)) for a in answers]
    if scope is not None:
        scores = [a["out_of_scope"] for a in found["answers"]]
        # counted in standard deviations, some of them near 0
        np.testing.assert_allclose(scores, [a.out_of_scope for a in answers], rtol=1e-4, atol=1e-5)
        assert {() if score > 1 else 1 for score in scores} == {() if a.labels == () else 1 for a in answers}


def test_the_verb_and_the_command_line_of_the_runner(tiny, tmp_path, capsys):
    make(tmp_path / "graft", tiny, training=Training({"backbone_path": str(tiny.path)}, {}, {}, {}, {}, {}))
    asked = ("--format", "jax", "--buckets", "16", "--batch", "2", "--out", "edge")
    status, out, err = call("export", "graft", *asked, "--json", capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert (result["max_memory_mb"], result["within_target"]) == (None, None)
    assert result["memory_mb"] > 0.1
    assert result["manifest_id"] == json.loads(Path("edge/manifest.json").read_text())["manifest_id"]
    done = subprocess.run(
        [sys.executable, "-I", "edge/run.py", TEXTS[0], "ban"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == [TEXTS[0], "ban"]
    assert all(line["labels"][0] in LABELS and len(line["probabilities"]) == 3 for line in lines)
    for wrong, told in (
        (("--buckets", "17"), "17 is none of"),
        (("--buckets", "x"), "--buckets"),
        (("--batch", "0"), "--batch"),
    ):
        status, _, err = call("export", "graft", "--format", "jax", "--out", "other", *wrong, capsys=capsys)
        assert (status, told in err) == (2, True), err
        assert not Path("other").exists()
    status, _, err = call("export", "graft", *asked, capsys=capsys)
    assert (status, "exists already" in err) == (2, True)
    status, _, err = call("export", "graft", "--format", "peft", "--batch", "2", "--out", "p", capsys=capsys)
    assert (status, "--format jax" in err) == (2, True)

    script = """
import json, pathlib, runpy, sys
folder = pathlib.Path(sys.argv[1])
Model = runpy.run_path(str(folder / "run.py"))["Model"]
refused = []
for file in sorted(folder.iterdir()):
    whole = file.read_bytes()
    for changed in (whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:], whole[: len(whole) // 2]):
        file.write_bytes(changed)
        try:
            Model(folder)
        except ValueError as error:
            refused.append(file.name)
    file.write_bytes(whole)
manifest = folder / "manifest.json"
manifest.write_text(manifest.read_text().replace("first", "fifth"))
try:
    Model(folder)
except ValueError as error:
    refused.append(str(error).split(": ")[0])
print(json.dumps(refused))
"""
    done = alone(tmp_path / "edge", [], script)
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in Path("edge").iterdir())
    assert json.loads(done.stdout) == [
        *(name for name in names for _ in range(2)),
        str(tmp_path / "edge" / "manifest.json"),
    ]


@pytest.mark.parametrize("head", [TokenTagging(), Classification(pair="two_tower")])
def test_heads_that_cannot_be_exported_are_named(tiny, tmp_path, head):
    make(tmp_path / "graft", tiny, head=head)
    with pytest.raises(InputError, match=f"its head is {head.kind} with pair={head.pair}"):
        export_jax(tmp_path / "graft", tmp_path / "edge", backbone=tiny.path, batch=8)
    assert not (tmp_path / "edge").exists()


def test_a_backbone_for_images_is_refused(tmp_path):
    from backbone.storage import load_backbone
    from tests.tiny_images import make_image_backbone

    backbone = load_backbone(make_image_backbone(tmp_path / "images"))
    make(tmp_path / "graft", backbone)
    with pytest.raises(InputError, match="backbone for images"):
        export_jax(tmp_path / "graft", tmp_path / "edge", backbone=backbone.path, batch=8)
