"""LoRA, DoRA, IA3, VeRA and LayerNorm tuning from PEFT and to PEFT.

The goldens were written by PEFT itself (`make goldens`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import topgraft
from adapters.export.peft import export_peft, import_peft
from adapters.specs import IA3, Bottleneck, Classification, Dora, Lora, LoraOverride, Norm, Vera
from backbone.errors import InputError
from backbone.storage import load_backbone
from backbone.trees import flatten
from tests.grafts import make
from tests.tiny import golden_params, make_tiny_backbone, rows

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
TEXTS = json.loads((GOLDENS / "sentences.json").read_text())


@pytest.mark.parametrize("name", ["peft_lora", "peft_rslora"])
def test_a_folder_written_by_peft_gives_pefts_logits(name, minilm, minilm_path, tmp_path):
    done = import_peft(GOLDENS / name, minilm_path, tmp_path / "graft", labels="a,b,c,d,e", max_tokens=128)
    assert done.labels == ("a", "b", "c", "d", "e")
    found = topgraft.load(tmp_path / "graft", minilm).logits(TEXTS)
    wanted = load_file(GOLDENS / "peft_logits.safetensors")[name]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def golden_tiny(tmp_path_factory):
    """The tiny backbone whose weights PEFT had, too."""
    path = make_tiny_backbone(tmp_path_factory.mktemp("golden") / "backbone", params=golden_params())
    return load_backbone(path)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        (
            "peft_dora",
            Dora(
                rank=3,
                alpha=5.0,
                sites=("attention/query", "attention/output", "mlp/down"),
                overrides=tuple(LoraOverride(f"{i}/attention/query", rank=2) for i in range(3)),
            ),
        ),
        ("peft_ia3", IA3(scale_inputs=("attention/output", "mlp/down"))),
        ("peft_vera", Vera(rank=16, sites=("attention/key", "mlp/up"), seed=7, blocks="1:3")),
        ("peft_ln_tuning", Norm()),
    ],
)
def test_each_peft_type_gives_pefts_logits(name, spec, golden_tiny, tmp_path):
    done = import_peft(GOLDENS / name, golden_tiny.path, tmp_path / "graft")
    assert done.method == spec.method
    graft = topgraft.load(tmp_path / "graft", golden_tiny)
    assert graft.model.methods == (spec,)
    wanted = load_file(GOLDENS / "peft_tiny_logits.safetensors")[name]
    found = graft.logits([text for text, _ in rows(16, seed=4)])
    np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))
    assert np.ptp(wanted, axis=0).max() > 0.05, "the rows differ"


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@pytest.mark.parametrize(
    "spec",
    [
        Lora(rank=2),
        Lora(
            rank=4,
            sites=("attention/*", "mlp/*"),
            blocks="1:",
            scaling="rank_stabilised",
            overrides=(LoraOverride("mlp/up", rank=2, alpha=3.0),),
        ),
        Lora(rank=2, sites=("0/attention/query", "2/mlp/down")),
        Dora(rank=2, sites=("attention/value", "mlp/down"), blocks="1:"),
        IA3(),
        IA3(scale_outputs=("0/attention/key",), scale_inputs=("1/attention/key", "mlp/down"), blocks=":2"),
        Vera(rank=4, sites=("attention/key", "mlp/up"), seed=11, blocks="2:"),
        Norm(),
        Norm(sites=("2/attention/norm",)),
    ],
)
def test_there_and_back_is_the_same_graft(pooling, spec, tiny, tmp_path):
    _, _, params = make(tmp_path / "graft", tiny, spec, Classification(pooling=pooling))
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=tiny.path)
    import_peft(tmp_path / "peft", tiny.path, tmp_path / "back")
    before, after = (topgraft.load(tmp_path / name, tiny) for name in ("graft", "back"))
    assert after.model.head == before.model.head
    assert after.model.labels == before.model.labels
    for (path, found), (_, wanted) in zip(flatten(after.params).items(), flatten(params).items(), strict=True):
        if path.endswith("magnitude") or isinstance(spec, Norm):  # stored beside the backbone's there, relative here
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=path)
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=path)
    texts = ["ban bas bal", "ros"]
    np.testing.assert_allclose(after.logits(texts), before.logits(texts), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "head"), [(Bottleneck(width=2), Classification()), (Lora(rank=2), Classification("attention"))]
)
def test_what_peft_cannot_hold_is_refused(spec, head, tiny, tmp_path):
    make(tmp_path / "graft", tiny, spec, head)
    with pytest.raises(InputError, match=r"PEFT export takes one of lora, dora, ia3, vera, norm with|PEFT has no head"):
        export_peft(tmp_path / "graft", tmp_path / "peft", backbone=tiny.path)
    assert not (tmp_path / "peft").exists()


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(GOLDENS / "peft_lora", tmp_path / "peft"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "OFT"}, "peft_type: 'OFT' is not supported; one of IA3, LN_TUNING, LORA, VERA"),
        ({"peft_type": "IA3"}, "a field of another version of PEFT, or of another type"),
        ({"use_dora": True}, "lora_magnitude_vector: missing"),
        ({"use_bdlora": True}, "use_bdlora: True is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' is not supported"),
        ({"bias": "all"}, "bias: 'all' is not supported; only 'none'"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"lora_dropout": [0.1]}, "lora_dropout: expected a positive number, got \\[0.1\\]"),
        ({"lora_dropout": "0.1"}, "lora_dropout: expected a positive number, got '0.1'"),
    ],
)
def test_options_that_we_do_not_have_are_named(change, message, folder, minilm_path, tmp_path):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        import_peft(folder, minilm_path, tmp_path / "graft")


@pytest.mark.parametrize("labels", [7, "abc", {"0": "a"}, [["a"], "b"], [None, "b"]])
def test_noted_labels_that_are_no_texts_are_refused(labels, tiny, tmp_path):
    make(tmp_path / "graft", tiny)
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=tiny.path)
    (noted,) = [file for file in (tmp_path / "peft").glob("*.json") if "labels" in json.loads(file.read_text())]
    noted.write_text(json.dumps(json.loads(noted.read_text()) | {"labels": labels}))
    with pytest.raises(InputError, match=rf"{noted.name}: labels: .*, expected a list of texts"):
        import_peft(tmp_path / "peft", tiny.path, tmp_path / "back")


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (
            Dora(rank=2),
            lambda t: {"lora_magnitude_vector": np.ones(3, np.float32)},
            r"magnitude \(3,\) does not fit 32",
        ),
        (IA3(), lambda t: {"ia3_l": np.ones((3, 1), np.float32)}, r"\(3, 1\) does not fit a layer 32 -> 32"),
        (Vera(rank=4), lambda t: {"vera_lambda_d": np.ones(3, np.float32)}, r"d \(3,\), b \(32,\) do not fit rank 4"),
        (Vera(rank=4), lambda t: {"vera_A": t + 0.1}, "vera_A: not what projection_prng_key=0 draws for these layers"),
        (Norm(), lambda t: {"ln_tuning_layers.bias": np.ones(3, np.float32)}, r"\(3,\) does not fit a width of 32"),
    ],
)
def test_tensors_of_each_type_are_checked(spec, change, message, tiny, tmp_path):
    make(tmp_path / "graft", tiny, spec, Classification(pooling="pooler"))
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=tiny.path)
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    ((suffix, _),) = change(0).items()
    key = next(key for key in tensors if key.endswith(suffix))
    rewrite(tmp_path / "peft", lambda t: t.update({key: change(t[key])[suffix]}))
    with pytest.raises(InputError, match=message):
        import_peft(tmp_path / "peft", tiny.path, tmp_path / "back")


def test_tensors_that_do_not_fit_are_named(folder, minilm_path, tiny_path, tmp_path):
    with pytest.raises(InputError, match="does not fit the backbone"):
        import_peft(folder, tiny_path, tmp_path / "graft")
    first = next(k for k in load_file(folder / "adapter_model.safetensors") if ".lora_A." in k)
    rewrite(folder, lambda t: t.update({"extra": np.zeros(2, np.float32)}))
    with pytest.raises(InputError, match="that a LoRA with a head does not have: extra"):
        import_peft(folder, minilm_path, tmp_path / "graft")
    rewrite(folder, lambda t: [t.pop("extra"), t.pop(first.replace("_A.", "_B."))])
    with pytest.raises(InputError, match=r"lora_B.weight: missing"):
        import_peft(folder, minilm_path, tmp_path / "graft")
    rewrite(folder, lambda t: [t.pop(k) for k in list(t) if "lora_" in k])
    with pytest.raises(InputError, match=r"no tensor named \.\.\.lora_A\.weight"):
        import_peft(folder, minilm_path, tmp_path / "graft")
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(InputError, match="expected a JSON object, got list"):
        import_peft(folder, minilm_path, tmp_path / "graft")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        import_peft(folder, minilm_path, tmp_path / "graft")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(InputError, match="not a PEFT folder"):
        import_peft(folder, minilm_path, tmp_path / "graft")


def test_a_folder_without_a_head_or_with_other_labels(folder, minilm_path, tmp_path):
    with pytest.raises(InputError, match="--labels: 2 names for a head with 5 outputs"):
        import_peft(folder, minilm_path, tmp_path / "graft", labels="a,b")
    with pytest.raises(InputError, match="--labels: 100 names for a head"):
        import_peft(folder, minilm_path, tmp_path / "graft", labels=",".join(["a long name"] * 100))
    (tmp_path / "names.txt").write_bytes("\ufeffv\r\nw\r\nx\r\ny\r\nz\r\n".encode())
    done = import_peft(folder, minilm_path, tmp_path / "named", labels=str(tmp_path / "names.txt"))
    assert done.labels == ("v", "w", "x", "y", "z")
    rewrite(folder, lambda t: [t.pop(k) for k in list(t) if "classifier" in k])
    with pytest.raises(InputError, match="a graft needs its head"):
        import_peft(folder, minilm_path, tmp_path / "graft")
    (folder / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes()[:-50])
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        import_peft(folder, minilm_path, tmp_path / "graft")
