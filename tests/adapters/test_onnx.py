"""An exported ONNX file gives the logits of the graft, in every family, method and head, and runs without Topgraft."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import onnxruntime
import pytest

import topgraft
from adapters.artefact.manifest import Training
from adapters.export.onnx.conversion import CONVERSIONS
from adapters.export.onnx.export import export_onnx
from adapters.export.onnx.tracing import onnx_model
from adapters.graft import Graft
from adapters.methods.method import SiteMethod
from adapters.model import GraftModel
from adapters.specs import Classification, Lora, MultiLabel, Probe, Regression, TokenTagging
from backbone.errors import InputError
from backbone.images import patches
from backbone.lazy import jnp
from backbone.network.encoder import Network
from backbone.precisions.precision import precision_named
from backbone.storage import Backbone, load_backbone
from backbone.variants.registered import variants
from tests.adapters.test_exporting import scope_for
from tests.command import call
from tests.families import CONFIGS, config_of, family_of, images, token_rows
from tests.grafts import LABELS, make, nonzero
from tests.methods import METHODS
from tests.tiny import as_json, golden_params, rows

TENSORS = ("pooler.dense.weight", "embeddings.token_type_embeddings.weight")
EVERYWHERE = Lora(rank=2, sites=("attention/*", "mlp/*"))
TEXTS = [text for text, _ in rows(7, seed=4)] + ["", "ban ban " * 40]


def in_memory(tiny: Backbone, family: str, method, head, precision: str = "float32") -> Graft:
    """A graft of random numbers on a family's example, or on the tiny backbone."""
    spec = family_of(family).spec(config_of(family), TENSORS) if family else tiny.spec
    network = Network(spec)
    params = precision_named(precision).prepare(golden_params(spec))
    backbone = dataclasses.replace(tiny, params=params, network=network, precision=precision)
    model = GraftModel(network, (method,), head, LABELS)
    return Graft(model, nonzero(model, size=0.1), backbone, 24)  # larger ones amplify float32's rounding


def session_of(graft: Graft) -> onnxruntime.InferenceSession:
    content = onnx_model(graft, {}).SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def batch_of(graft: Graft, family: str) -> tuple[dict, dict]:
    """What the file is fed, and what the network takes: rows of 24, 17 and 5 tokens, twice for two towers."""
    spec = graft.backbone.spec
    if spec.image:
        pixels = images(family)
        made = np.stack([patches(picture, spec.image) for picture in pixels])
        return {"pixels": pixels}, {"ids": made, "mask": np.ones(made.shape[:2], bool)}
    lengths = (24, 17, 5) * graft.model.sides
    ids, mask = np.zeros((len(lengths), 24), np.int32), np.arange(24) < np.array(lengths)[:, None]
    for place, row in enumerate(token_rows(lengths)):
        ids[place, : len(row)] = row
    feed, inputs = {"ids": ids.astype(np.int64), "mask": mask.astype(np.int64)}, {"ids": ids, "mask": mask}
    if graft.model.head.pair == "cross" and spec.segments > 1:
        inputs["segments"] = (np.arange(24) > 9) * mask.astype(np.int32)
        feed["segments"] = inputs["segments"].astype(np.int64)
    return feed, inputs


def require_equal(graft: Graft, family: str, atol: float) -> None:
    """Compares whole batches, and rows that are alone and of their own length, with the network's logits."""
    session, (feed, inputs) = session_of(graft), batch_of(graft, family)
    expected = np.asarray(jax.jit(graft.model.logits)(graft.backbone.params, graft.params, inputs))
    assert np.abs(expected).max() > 0.05
    (logits,) = session.run(["logits"], feed)
    assert (logits.shape, logits.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(logits, expected, atol=atol)
    if graft.backbone.spec.image or graft.model.sides > 1:
        return
    for row, length in ((1, 17), (2, 5)):
        (alone,) = session.run(["logits"], {name: array[row : row + 1, :length] for name, array in feed.items()})
        of_row = expected[row, :length] if expected.ndim == 3 else expected[row]
        np.testing.assert_allclose(alone[0], of_row, atol=atol)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_in_float32_and_int8(family, precision, tiny):
    graft = in_memory(tiny, family, EVERYWHERE, Classification(pooling="first"), precision)
    require_equal(graft, family, {"float32": 1e-4, "int8": 2e-2}[precision])
    names = {tensor.name for tensor in onnx_model(graft, {}).graph.initializer}
    kernel = "backbone.blocks.1.mlp.up.kernel"
    assert {kernel if precision == "float32" else f"{kernel}.values", "graft.head.kernel"} <= names


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name, tiny):
    require_equal(in_memory(tiny, "", METHODS[name], Classification()), "", 5e-5)


@pytest.mark.parametrize(
    "head",
    [
        *(Classification(pooling=pooling) for pooling in ("attention", "pooler")),
        *(Classification(pair=pair) for pair in ("cross", "two_tower", "cosine")),
        MultiLabel(),
        Regression(spread=2.0),
        TokenTagging(),
    ],
    ids=lambda head: f"{head.kind} {head.pooling} {head.pair}",
)
def test_every_head(head, tiny):
    family = "bert" if head.pooling == "pooler" else ""
    graft = in_memory(tiny, family, Lora(rank=2), head)
    require_equal(graft, family, 5e-5)
    feed, _ = batch_of(graft, family)
    logits, answer = session_of(graft).run(["logits", head.output], feed)
    np.testing.assert_allclose(answer, np.asarray(head.exported(jnp.asarray(logits))), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_norms_and_gelu_are_one_operator_each(family, tiny):
    graft = in_memory(tiny, family, Lora(rank=2), Classification())
    counts = collections.Counter(node.op_type for node in onnx_model(graft, {}).graph.node)
    norms = {"bert": 1 + 2 * 2, "modernbert": 1 + 1 + 2 + 1}[family]  # ModernBERT: no norm before the first attention
    assert (counts["LayerNormalization"], counts["Gelu"], counts["Erf"], counts["Reciprocal"]) == (norms, 2, 0, 0)


def test_a_long_text_and_a_window_that_a_short_one_does_not_fill(tiny):
    """ModernBERT's example sees 4 tokens on either side: rows of 1 to 8 tokens are wholly visible."""
    graft = in_memory(tiny, "modernbert", Lora(rank=2), Classification())
    session = session_of(graft)
    for length in (5, 32):
        ids = np.arange(length)[None] % 30 + 5
        inputs = {"ids": ids.astype(np.int32), "mask": np.ones((1, length), bool)}
        expected = graft.model.logits(graft.backbone.params, graft.params, inputs)
        (logits,) = session.run(["logits"], {"ids": ids, "mask": np.ones((1, length), np.int64)})
        np.testing.assert_allclose(logits, expected, atol=2e-5)


def alone(folder: Path, after: str = "", find: str = "", put: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the page's code in a fresh interpreter that sees neither this checkout nor its environment variables."""
    page = (folder / "README.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert find in code
    assert len(code.splitlines()) <= 13
    script = code.replace(find, put) if find else code
    ours = "import sys\nprint(sorted({'jax', 'onnx', 'topgraft', 'adapters', 'backbone'} & set(sys.modules)))\n"
    home = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-I", "-c", script + ours + after],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=home,
    )


PRINT = "print(json.dumps({name: array.tolist() for name, array in outputs.items()}))\n"


def test_the_page_of_a_folder_answers_as_the_graft(tiny, tmp_path, capsys):
    training = Training({"backbone_path": str(tiny.path)}, {}, {}, {}, {}, {})
    scope = scope_for(tiny, True)
    make(tmp_path / "graft", tiny, Lora(rank=2), Classification(), scope=scope, training=training)
    status, out, err = call("export", "graft", "--format", "onnx", "--out", "edge", "--json", capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert sorted(path.name for path in Path("edge").iterdir()) == [
        "README.md", "manifest.json", "model.onnx", "tokenizer.json"
    ]  # fmt: skip
    assert result["largest_difference"] < 1e-4
    assert result["measured"] == f"onnxruntime {onnxruntime.__version__}"
    assert (result["precision"], result["inputs"]) == ("float32", ["ids", "mask"])
    done = alone(tmp_path / "edge", PRINT, '["a text", "another one"]', json.dumps(TEXTS))
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[-2] == "[]", "neither jax nor onnx nor anything of ours was imported"
    outputs = json.loads(printed[-1])
    graft = topgraft.load(tmp_path / "graft", tiny)
    answers = graft.predict(TEXTS)
    np.testing.assert_allclose(outputs["logits"], graft.logits(TEXTS), atol=1e-5)
    np.testing.assert_allclose(outputs["out_of_scope"], [answer.out_of_scope for answer in answers], rtol=1e-3)
    probable = np.array(LABELS)[graft.logits(TEXTS).argmax(axis=1)]
    assert printed[0] == str(probable).splitlines()[0]
    about = json.loads(Path("edge/manifest.json").read_text(encoding="utf-8"))
    assert (about["labels"], about["abstain"], about["max_tokens"]) == (list(LABELS), True, 48)
    assert about["content_id"] == result["content_id"] == graft.manifest.content_id


def test_the_page_of_a_folder_for_images_answers_as_the_graft(tmp_path):
    from PIL import Image

    from tests.tiny_images import make_image_backbone

    backbone = load_backbone(make_image_backbone(tmp_path / "images"))
    make(tmp_path / "graft", backbone, Probe(), Classification())
    export_onnx(tmp_path / "graft", tmp_path / "edge", backbone=backbone.path)
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "edge" / "picture.png")
    done = alone(tmp_path / "edge", PRINT)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout.splitlines()[-1])
    graft = topgraft.load(tmp_path / "graft", backbone)
    np.testing.assert_allclose(outputs["logits"], graft.logits([tmp_path / "edge" / "picture.png"]), atol=1e-5)


def test_the_pages_of_other_heads_run(tiny, tmp_path):
    for number, head in enumerate((MultiLabel(), Regression(spread=2.0), TokenTagging(), Classification(pair="cross"))):
        make(tmp_path / f"graft{number}", tiny, head=head)
        export_onnx(tmp_path / f"graft{number}", tmp_path / f"edge{number}", backbone=tiny.path)
        done = alone(tmp_path / f"edge{number}")
        assert done.returncode == 0, done.stderr


def test_int8_is_smaller_and_says_how_far_it_is_from_float32(tiny_path, tmp_path):
    for precision in ("float32", "int8"):
        make(tmp_path / precision, load_backbone(tiny_path, precision=precision), Lora(rank=2))
    plain, small = (
        export_onnx(tmp_path / name, tmp_path / f"edge-{name}", backbone=tiny_path) for name in ("float32", "int8")
    )
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("edge-float32", "edge-int8")]
    assert sizes[0] > 2 * sizes[1]
    assert plain.difference_to_float32 < 1e-4
    assert small.largest_difference < 2e-2 < small.difference_to_float32 < 1.0


def test_bfloat16_is_refused_by_name_with_the_remedy(tiny_path, tmp_path, capsys):
    training = Training({"backbone_path": str(tiny_path)}, {}, {}, {}, {}, {})
    make(tmp_path / "graft", load_backbone(tiny_path, precision="bfloat16"), training=training)
    status, _, err = call("export", "graft", "--format", "onnx", "--out", "edge", capsys=capsys)
    assert status == 2
    assert (
        "the trunk is in bfloat16, and onnxruntime does not compute in bfloat16 on a CPU; give --precision float32"
        in err
    )
    assert not Path("edge").exists()


def test_without_onnxruntime_the_folder_says_so_and_without_onnx_there_is_none(tiny, tmp_path, monkeypatch):
    make(tmp_path / "graft", tiny)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = export_onnx(tmp_path / "graft", tmp_path / "edge", backbone=tiny.path)
    assert (report.largest_difference, report.difference_to_float32) == (None, None)
    assert report.measured == "onnxruntime is not installed here, so the file was not run"
    assert "Not compared with the graft" in (tmp_path / "edge" / "README.md").read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"needs the package onnx: pip install 'topgraft\[onnx\]'"):
        export_onnx(tmp_path / "graft", tmp_path / "other", backbone=tiny.path)


def test_a_file_that_differs_is_refused(tiny, tmp_path, monkeypatch):
    make(tmp_path / "graft", tiny)
    monkeypatch.setitem(CONVERSIONS, "exp", CONVERSIONS["tanh"])
    with pytest.raises(InputError, match=r"model.onnx: its (logits|probabilities) differ from the graft's by"):
        export_onnx(tmp_path / "graft", tmp_path / "edge", backbone=tiny.path)
    assert not (tmp_path / "edge").exists()


def test_a_method_of_ones_own_with_an_unknown_primitive_is_refused_by_name(tiny):
    known = variants(SiteMethod)

    @dataclasses.dataclass(frozen=True)
    class Running(SiteMethod, tag="running_sum"):
        """A running sum over the tokens."""

        sites: tuple[str, ...] = ("mlp/up",)
        blocks: str = ""

        def init(self, site, setting, rng):
            return {"gain": jnp.zeros((1,))}

        def after(self, setting, leaves, x, y, kernel, call):
            return y + leaves["gain"] * jnp.cumsum(y, axis=1)

    try:
        with pytest.raises(InputError, match="the primitive cumsum of jax has no conversion to ONNX; export with"):
            onnx_model(in_memory(tiny, "", Running(), Classification()), {})
    finally:
        SiteMethod.registry.variants.pop("running_sum", None)
        SiteMethod.registry.files.pop("running_sum", None)
    assert variants(SiteMethod) == known
