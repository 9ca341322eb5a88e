"""Against transformers and PEFT, live; run by `make test-peers` in an environment that has them.

`make test` needs no PyTorch: it compares with the small golden files that the same code wrote.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers environment has PyTorch; see make test-peers")
transformers = pytest.importorskip("transformers", reason="the peers environment has PyTorch; see make test-peers")
peft = pytest.importorskip("peft", reason="the peers environment has PyTorch; see make test-peers")

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

import topgraft  # noqa: E402
from adapters.peft import export_peft, import_peft  # noqa: E402
from adapters.specs import Classification, Lora, LoraOverride  # noqa: E402
from backbone.buckets import pad  # noqa: E402
from backbone.importing import minilm_folder  # noqa: E402
from tests.adapters.test_artifact import make  # noqa: E402
from tests.goldens import make as goldens  # noqa: E402


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
    import_peft(tmp_path / "peft", minilm_path, tmp_path / "graft")
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
