"""The classifier of a full fine-tune as a graft: its answers by formula, and fine-tunes that give none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from safetensors.numpy import load_file, save_file

import topgraft
from adapters.export.classifier import import_classifier
from backbone.buckets import pad
from backbone.errors import InputError
from backbone.exchange.importing import import_backbone
from backbone.storage import load_backbone
from backbone.trees import flatten
from tests.command import call
from tests.published_tokenizers import WORDS, lines, wordpieces

TEXTS = ["the line", "read and write a file", ""]
CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": len(wordpieces()),
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
}


def trunk_tensors(seed: int = 0, pooler: bool = True) -> dict[str, np.ndarray]:
    """The tensors of a small BERT."""
    from backbone.network.encoder import Network
    from tests.families import family_of

    known = family_of("bert")
    spec = known.spec(CONFIG, {"pooler.dense.weight"} if pooler else set())
    draw = np.random.default_rng(seed)
    tensors = {}
    for path, leaf in flatten(Network(spec).abstract()).items():
        value = (draw.normal(0, 0.3, leaf.shape) + path.endswith("norm.scale")).astype(np.float32)
        tensors |= known.release(path, value)
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def write(folder: Path, tensors: dict[str, np.ndarray], **fields) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | fields))
    (folder / "vocab.txt").write_text(lines(wordpieces()))
    save_file(tensors, folder / "model.safetensors")
    return folder


def fine_tune(folder: Path, kind: str, outputs: int = 3, *, seed: int = 0, **fields) -> Path:
    """A fine-tune of the trunk of `seed`; only a model for sequences keeps the pooler."""
    trunk = trunk_tensors(seed)
    kept = {f"bert.{n}": t for n, t in trunk.items() if kind == "Sequence" or not n.startswith("pooler")}
    draw = np.random.default_rng(9)
    head = {"classifier.weight": (outputs, 16), "classifier.bias": (outputs,)}
    tensors = kept | {name: draw.normal(size=shape).astype(np.float32) for name, shape in head.items()}
    return write(folder, tensors, architectures=[f"BertFor{kind}Classification"], **fields)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("classifier")
    import_backbone(write(place / "hf", trunk_tensors()), place / "trunk")
    return place / "trunk"


def states(backbone: Path, texts: list[str]) -> np.ndarray:
    """Finished states [N,T,D]."""
    loaded = load_backbone(backbone)
    ids, mask = pad(loaded.preprocessing.encode(texts), 32, loaded.preprocessing.fill)
    hidden = loaded.network.embed(loaded.params, {"ids": ids})
    return np.asarray(loaded.network.finish(loaded.params, loaded.network.run_blocks(loaded.params, hidden, mask)))


def logits(folder: Path, features: np.ndarray) -> np.ndarray:
    tensors = load_file(folder / "model.safetensors")
    return features @ tensors["classifier.weight"].T + tensors["classifier.bias"]


def pooled(folder: Path, hidden: np.ndarray) -> np.ndarray:
    tensors = load_file(folder / "model.safetensors")
    return np.tanh(hidden[:, 0] @ tensors["bert.pooler.dense.weight"].T + tensors["bert.pooler.dense.bias"])


def test_classes_answer_as_softmax_of_the_pooler(backbone, tmp_path, capsys):
    source = fine_tune(tmp_path / "tuned", "Sequence", id2label={"0": "no", "1": "maybe", "2": "yes"})
    out = tmp_path / "graft"
    status, printed, _ = call("import-graft", source, "--backbone", backbone, "--out", out, "--json", capsys=capsys)
    assert status == 0
    report = json.loads(printed.splitlines()[-1])
    assert (report["head"], report["labels"]) == ("classification", ["no", "maybe", "yes"])
    expected = scipy.special.softmax(logits(source, pooled(source, states(backbone, TEXTS))), axis=-1)
    graft = topgraft.load(out)
    assert graft.manifest.max_tokens == 32
    assert graft.manifest.weights_id == report["weights_id"]
    for prediction, row in zip(graft.predict(TEXTS), expected, strict=True):
        assert prediction.probabilities == pytest.approx(
            dict(zip(report["labels"], row.tolist(), strict=True)), abs=1e-5
        )


def test_several_labels_a_number_and_names_of_ones_own(backbone, tmp_path, capsys):
    several = fine_tune(tmp_path / "several", "Sequence", problem_type="multi_label_classification")
    report = import_classifier(several, backbone, tmp_path / "a", labels="x,y,z")
    assert (report.head, report.labels) == ("multi_label", ("x", "y", "z"))
    expected = scipy.special.expit(logits(several, pooled(several, states(backbone, TEXTS))))
    for prediction, row in zip(topgraft.load(tmp_path / "a").predict(TEXTS), expected, strict=True):
        assert prediction.probabilities == pytest.approx(dict(zip("xyz", row.tolist(), strict=True)), abs=1e-5)
    once_more = ("--problem-type", "regression", "--max-tokens", "16")
    one = fine_tune(tmp_path / "one", "Sequence", outputs=1, problem_type="multi_label_classification")
    status, printed, _ = call(
        *("import-graft", one, "--backbone", backbone, "--out", tmp_path / "c", "--json", *once_more), capsys=capsys
    )
    assert (status, json.loads(printed.splitlines()[-1])["head"]) == (0, "regression")
    assert topgraft.load(tmp_path / "c").manifest.max_tokens == 16
    with pytest.raises(InputError, match=r"--max-tokens: must lie in 1\.\.32"):
        import_classifier(one, backbone, tmp_path / "d", max_tokens=33)
    number = fine_tune(tmp_path / "number", "Sequence", outputs=1)
    assert import_classifier(number, backbone, tmp_path / "b").head == "regression"
    expected = logits(number, pooled(number, states(backbone, TEXTS)))[:, 0]
    values = [prediction.value for prediction in topgraft.load(tmp_path / "b").predict(TEXTS)]
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_tags_of_words_though_a_tagger_has_no_pooler(backbone, tmp_path):
    tags = ("O", "B-FILE", "I-FILE")
    source = fine_tune(tmp_path / "tuned", "Token", id2label={str(i): tag for i, tag in enumerate(tags)})
    assert import_classifier(source, backbone, tmp_path / "graft").head == "token_tagging"
    words = WORDS[:7]
    chosen = logits(source, states(backbone, [" ".join(words)])[0]).argmax(axis=-1)
    (prediction,) = topgraft.load(tmp_path / "graft").predict([words])
    assert prediction.labels == tuple(tags[chosen[1 + place]] for place in range(len(words)))
    unnamed = fine_tune(tmp_path / "unnamed", "Token")
    with pytest.raises(InputError, match=r"'LABEL_0' is no BIO tag .*--labels"):
        import_classifier(unnamed, backbone, tmp_path / "other")


def test_another_trunk_is_named_with_the_remedy_that_works(backbone, tmp_path):
    source = fine_tune(tmp_path / "tuned", "Sequence", seed=1)
    with pytest.raises(InputError, match=r"\d+ of \d+ tensors differ, the first is .*import-backbone .* --out TRUNK"):
        import_classifier(source, backbone, tmp_path / "graft")
    import_backbone(source, tmp_path / "trunk")
    import_classifier(source, tmp_path / "trunk", tmp_path / "graft")
    expected = scipy.special.softmax(logits(source, pooled(source, states(tmp_path / "trunk", TEXTS))), axis=-1)
    for prediction, row in zip(topgraft.load(tmp_path / "graft").predict(TEXTS), expected, strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-5)


def test_another_tokenizer_and_another_architecture(backbone, tmp_path):
    source = fine_tune(tmp_path / "tuned", "Sequence")
    (source / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    with pytest.raises(InputError, match="its tokenizer or image transform is not that of"):
        import_classifier(source, backbone, tmp_path / "graft")
    (source / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16}))
    import_classifier(source, backbone, tmp_path / "graft")
    relu = fine_tune(tmp_path / "relu", "Sequence", hidden_act="relu")
    with pytest.raises(InputError, match=r"the architectures differ \(activation\)"):
        import_classifier(relu, backbone, tmp_path / "other")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, "'BertForQuestionAnswering' has no classifier"),
        ({"architectures": None}, "architectures: ''"),
        ({"architectures": {"BertForSequenceClassification": 1}}, "architectures: ''"),
        ({"problem_type": "ranking"}, "problem_type: 'ranking' with 3 outputs"),
        ({"problem_type": "regression"}, "problem_type: 'regression' with 3 outputs"),
        ({"id2label": {"0": "a"}}, "id2label: expected a name for each of 3 outputs"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "distinct"),
    ],
)
def test_a_config_that_names_no_head_of_ours(backbone, tmp_path, fields, message):
    source = fine_tune(tmp_path / "tuned", "Sequence")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(InputError, match=message):
        import_classifier(source, backbone, tmp_path / "graft")
    assert not (tmp_path / "graft").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("classifier.bias"), "no single dense layer"),
        (lambda t: t.update({"cls.extra": np.zeros(3, np.float32)}), r"its tensors: cls\.extra"),
        (lambda t: t.update({"classifier.weight": np.zeros((3, 9), np.float32)}), "classifier.weight has shape"),
        (lambda t: t["classifier.bias"].fill(np.nan), "not finite"),
    ],
)
def test_a_classifier_of_other_tensors(backbone, tmp_path, change, message):
    source = fine_tune(tmp_path / "tuned", "Sequence")
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(InputError, match=message):
        import_classifier(source, backbone, tmp_path / "graft")
