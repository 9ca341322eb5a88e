"""Against transformers and PEFT, live; run by `make test-peers` in an environment that has them.

`make test` needs no PyTorch: it compares with the small golden files that the same code wrote.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers environment has PyTorch; see make test-peers")
transformers = pytest.importorskip("transformers", reason="the peers environment has PyTorch; see make test-peers")
peft = pytest.importorskip("peft", reason="the peers environment has PyTorch; see make test-peers")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type.*LayerNorm.*:UserWarning"),  # PEFT's own LN_TUNING
]

import topgraft  # noqa: E402
from adapters.combination import Combination  # noqa: E402
from adapters.export.peft import export_peft, import_peft  # noqa: E402
from adapters.mixing import combine  # noqa: E402
from adapters.specs import IA3, Classification, Dora, Lora, LoraOverride, Norm, Vera  # noqa: E402
from backbone.buckets import pad  # noqa: E402
from backbone.exchange.importing import minilm_folder  # noqa: E402
from backbone.storage import load_backbone  # noqa: E402
from tests.goldens import make as goldens  # noqa: E402
from tests.grafts import make  # noqa: E402
from tests.tiny import make_tiny_backbone  # noqa: E402


def test_hidden_states_equal_transformers_on_64_sentences(minilm):
    texts = goldens.sentences()
    inputs = goldens.encoded(texts)
    with torch.inference_mode():
        wanted = transformers.AutoModel.from_pretrained(minilm_folder()).eval()(**inputs).last_hidden_state.numpy()
    rows = minilm.preprocessing.encode(texts, 128)
    ids, mask = pad(rows, inputs["input_ids"].shape[1])
    np.testing.assert_array_equal(ids, inputs["input_ids"].numpy())
    hidden = minilm.network.embed(minilm.params, {"ids": ids})
    found = np.asarray(minilm.network.finish(minilm.params, minilm.network.run_blocks(minilm.params, hidden, mask)))
    worst = np.abs(found - wanted)[mask].max()
    print(f"largest difference of a hidden state: {worst:.2e}")
    assert worst < 1e-4


@pytest.mark.parametrize("settings", [goldens.PLAIN, goldens.RANK_STABILISED])
def test_peft_to_topgraft(settings, minilm_path, tmp_path):
    model = goldens.peft_model(settings, seed=3)
    model.save_pretrained(tmp_path / "peft")
    with torch.inference_mode():
        wanted = model(**goldens.encoded(goldens.sentences())).logits.numpy()
    import_peft(tmp_path / "peft", minilm_path, tmp_path / "graft", max_tokens=128)
    found = topgraft.load(tmp_path / "graft").logits(goldens.sentences())
    assert np.abs(found - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(
    "spec",
    [
        Lora(rank=4),
        Lora(
            rank=4,
            sites=("attention/*", "mlp/*"),
            blocks="3:",
            scaling="rank_stabilised",
            overrides=(LoraOverride("mlp/up", rank=2, alpha=3.0),),
        ),
    ],
)
def test_topgraft_to_peft(spec, minilm, tmp_path):
    make(tmp_path / "graft", minilm, spec, Classification(pooling="pooler"), max_tokens=128, noise=0.05)
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=minilm.path)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=3).eval()
    inputs = goldens.encoded(goldens.sentences())
    with torch.inference_mode():
        plain = base(**inputs).logits.numpy()
        model = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
        wanted = model(**inputs).logits.numpy()
    graft = topgraft.load(tmp_path / "graft", minilm)
    found = graft.logits(goldens.sentences())
    scale = max(1, np.abs(wanted).max())
    assert np.abs(found - wanted).max() < 1e-4 * scale
    assert np.abs(found - plain).max() > 1e-2, "the adapter changes something"


def test_mean_pooling_to_peft_with_the_head_beside_it(minilm, tmp_path):
    from safetensors.torch import load_file

    make(tmp_path / "graft", minilm, Lora(rank=4), Classification(pooling="mean"), max_tokens=128, noise=0.05)
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=minilm.path)
    base = transformers.AutoModel.from_pretrained(minilm_folder()).eval()
    model = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    head = load_file(tmp_path / "peft" / "topgraft_head.safetensors")
    inputs = goldens.encoded(goldens.sentences())
    with torch.inference_mode():
        hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        wanted = ((hidden * mask).sum(1) / mask.sum(1) @ head["weight"].T + head["bias"]).numpy()
    found = topgraft.load(tmp_path / "graft", minilm).logits(goldens.sentences())
    assert np.abs(found - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())


@pytest.fixture(scope="module")
def golden_tiny(tmp_path_factory):
    path = make_tiny_backbone(tmp_path_factory.mktemp("golden") / "backbone", params=goldens.golden_params())
    return load_backbone(path)


@pytest.mark.parametrize("name", goldens.tiny_configs())
def test_each_peft_type_to_topgraft(name, golden_tiny, tmp_path):
    model = goldens.tiny_peft(goldens.tiny_configs()[name], seed=5)
    model.save_pretrained(tmp_path / "peft")
    with torch.inference_mode():
        wanted = model(**goldens.tiny_inputs()).logits.numpy()
    import_peft(tmp_path / "peft", golden_tiny.path, tmp_path / "graft")
    found = topgraft.load(tmp_path / "graft", golden_tiny).logits(goldens.tiny_texts())
    assert np.abs(found - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(
    "spec",
    [
        Dora(rank=2, alpha=3.0, sites=("attention/*", "mlp/up"), scaling="rank_stabilised", blocks="1:"),
        IA3(),
        Vera(rank=8, sites=("attention/value", "mlp/down"), seed=12, blocks=":2"),
        Norm(),
    ],
)
def test_each_method_to_peft(spec, golden_tiny, tmp_path):
    make(tmp_path / "graft", golden_tiny, spec, Classification(pooling="pooler"), noise=0.2)
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=golden_tiny.path)
    inputs = goldens.tiny_inputs()
    with torch.inference_mode():
        plain = goldens.tiny_bert(3)(**inputs).logits.numpy()
        wanted = peft.PeftModel.from_pretrained(goldens.tiny_bert(3), tmp_path / "peft").eval()(**inputs).logits.numpy()
    found = topgraft.load(tmp_path / "graft", golden_tiny).logits(goldens.tiny_texts())
    assert np.abs(found - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())
    assert np.abs(found - plain).max() > 1e-2, "the adapter changes something"


@pytest.mark.parametrize(
    ("how", "theirs"), [("linear", "linear"), ("cat", "cat"), ("svd", "svd"), ("ties", "ties_svd")]
)
def test_combined_adapters_equal_pefts(how, theirs, golden_tiny, tmp_path):
    model = None
    for number, spec in enumerate((Lora(rank=3, alpha=5.0), Lora(rank=3, alpha=2.0))):
        make(tmp_path / str(number), golden_tiny, spec, Classification(pooling="mean"), seed=number)
        folder = tmp_path / f"peft{number}"
        export_peft(tmp_path / str(number), folder, backbone=golden_tiny.path)
        if model is None:
            model = peft.PeftModel.from_pretrained(goldens.tiny_bert(3).bert, folder, adapter_name="0")
        else:
            model.load_adapter(folder, adapter_name=str(number))
    paths, weights = [tmp_path / "0", tmp_path / "1"], [0.7, 0.4]
    density = {"density": 0.3} if how == "ties" else {}
    combine(paths, tmp_path / "both", Combination(how=how, weights=weights, **density), backbone=golden_tiny.path)
    model.add_weighted_adapter(["0", "1"], weights, "both", combination_type=theirs, **density)
    graft = topgraft.load(tmp_path / "both", golden_tiny)
    settings = graft.model.site_parts["lora"][1]
    for site, setting in settings.items():
        leaves = graft.params["adapter"]["lora"][str(site.block)][site.name]
        found = setting.scale * np.asarray(leaves["a"]) @ np.asarray(leaves["b"])
        layer = getattr(model.base_model.model.encoder.layer[site.block].attention.self, site.name.split("/")[1])
        wanted = layer.get_delta_weight("both").detach().numpy().T
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
