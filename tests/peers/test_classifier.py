"""Full fine-tunes that transformers saved: encoder and classifier imported, equal logits; run by `make test-peers`."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers environment has PyTorch; see make test-peers")
transformers = pytest.importorskip("transformers", reason="the peers environment has PyTorch; see make test-peers")

from adapters.export.classifier import import_classifier  # noqa: E402
from adapters.graft import load_graft  # noqa: E402
from backbone.errors import InputError  # noqa: E402
from backbone.exchange.importing import import_backbone  # noqa: E402
from tests.families import config_of, images  # noqa: E402
from tests.published_tokenizers import FOLDERS, strings, write_folder  # noqa: E402

TEXTS = strings()["plain"][:20] + strings()["blocks"][:20]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CONFIGS = {"bert": SIZES, "roberta": SIZES, "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}}
TAGS = {0: "O", 1: "B-A", 2: "I-A"}


def saved(folder, family: str, task: str, **fields):
    """A random model of transformers with its tokenizer, saved."""
    place = write_folder(folder, family, next(kind for known, kind in FOLDERS if known == family))
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    config = transformers.AutoConfig.for_model(
        family, vocab_size=2000, num_labels=2 if task == "QuestionAnswering" else 3, **CONFIGS[family], **fields
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"AutoModelFor{task}").from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place, model, tokenizer


@pytest.mark.parametrize(
    ("family", "task", "fields"),
    [
        ("bert", "SequenceClassification", {}),
        ("bert", "SequenceClassification", {"problem_type": "multi_label_classification"}),
        ("bert", "TokenClassification", {"id2label": TAGS}),
        ("roberta", "TokenClassification", {"id2label": TAGS}),
        ("distilbert", "TokenClassification", {"id2label": TAGS}),
    ],
)
def test_encoder_and_classifier_give_the_logits_of_transformers(family, task, fields, tmp_path):
    place, model, tokenizer = saved(tmp_path / "hf", family, task, **fields)
    report = import_backbone(place, tmp_path / "trunk")
    assert report.ignored == ("classifier.bias", "classifier.weight")
    import_classifier(place, tmp_path / "trunk", tmp_path / "graft")
    graft = load_graft(tmp_path / "graft")
    rows = graft.backbone.preprocessing.encode(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        assert row.tolist() == inputs["input_ids"][0].tolist()
        with torch.inference_mode():
            wanted = model(**inputs).logits[0].numpy()
        ids, mask = row[None], np.ones((1, len(row)), bool)
        logits = np.asarray(graft.model.logits(graft.backbone.params, graft.params, {"ids": ids, "mask": mask}))[0]
        np.testing.assert_allclose(logits, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("roberta", "SequenceClassification"),
        ("distilbert", "SequenceClassification"),
        ("bert", "QuestionAnswering"),
        ("roberta", "QuestionAnswering"),
        ("distilbert", "QuestionAnswering"),
        ("bert", "MaskedLM"),
        ("bert", "MultipleChoice"),
    ],
)
def test_other_heads_leave_the_encoder_and_are_refused_as_grafts(family, task, tmp_path):
    place, _, _ = saved(tmp_path / "hf", family, task)
    assert import_backbone(place, tmp_path / "trunk").ignored
    with pytest.raises(InputError, match=r"no single dense layer|has no classifier"):
        import_classifier(place, tmp_path / "trunk", tmp_path / "graft")


def test_a_classifier_of_images(tmp_path):
    config = transformers.AutoConfig.for_model(**config_of("vit"), num_labels=3)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    model.save_pretrained(tmp_path / "hf")
    values = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 16}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(values))
    import_backbone(tmp_path / "hf", tmp_path / "trunk")
    import_classifier(tmp_path / "hf", tmp_path / "trunk", tmp_path / "graft")
    graft = load_graft(tmp_path / "graft")
    from PIL import Image

    from tests.tiny_images import encoded

    pixels = images("vit", 4)
    rows = np.stack(graft.backbone.preprocessing.encode([encoded(Image.fromarray(p)) for p in pixels]))
    inputs = {"ids": rows, "mask": np.ones(rows.shape[:2], bool)}
    logits = np.asarray(graft.model.logits(graft.backbone.params, graft.params, inputs))
    values = torch.from_numpy((pixels / 255 - 0.5) / 0.5).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        np.testing.assert_allclose(logits, model(values).logits.numpy(), atol=1e-4)
