"""Documents about a graft: every number is the manifest's, what is missing is said, and schemas and parsers agree."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import files as files_of
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from jsonschema import Draft7Validator
from referencing import Registry, Resource

import topgraft
from adapters.artefact.manifest import read_manifest, uncounted
from adapters.artefact.write import save_graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.records import decode
from backbone.storage import load_backbone
from backbone.trees import flatten, unflatten
from metering.cost import CostRecord
from tests.grafts import EMPTY, make
from tests.tiny import as_json
from tests.tiny_images import make_image_backbone

JOULES = {"quality": "modelled", "value": 36.0, "low": 12.0, "high": 90.0, "source": "CPU seconds times watts"}
PHASE = {"wall_seconds": 3.25, "cpu_seconds": 6.0, "peak_bytes": None, "flops": 4e9, "bytes_moved": 1.0, "watts": 6.0}
COSTS = {"train": {**PHASE, "joules": JOULES}, "evaluate": {**PHASE, "joules": JOULES}}
METRICS = {"test": {"accuracy": 0.8125, "macro_f1": 0.79}, "dev": {"accuracy": 0.84375}}
COUNTS = {"load": None, "data": None, "probe": None, "fill": 10.0, "steps": None}
ENERGY = "energy: give --profile FILE, which `topgraft profile GRAFT --json` prints"
SHAPES = [
    {"batch": batch, "tokens": tokens, "joules_per_row": tokens / 100, "joules_quality": "modelled", "p50_ms": 2.0}
    for tokens in (16, 32, 48)
    for batch in (1, 8)
]


def test_only_phases_that_compute_lack_a_count():
    phases = {name: decode(CostRecord, {**PHASE, "flops": flops, "joules": JOULES}) for name, flops in COUNTS.items()}
    assert uncounted(phases) == ("steps",)
    assert uncounted(phases, "bytes_moved") == ()


@pytest.fixture
def graft(tiny, tmp_path) -> Path:
    values = {**vars(EMPTY), "costs": COSTS, "metrics": METRICS, "data": {"train": "sha256:" + "1" * 64}}
    values |= {
        "config": {"backbone": "tiny"},
        "versions": {"python": "3.11.7", "jax": "0.10.2", "array_record": "0.8.6"},
    }
    make(tmp_path / "graft", tiny, training=type(EMPTY)(**values))
    (tmp_path / "profile.json").write_text(
        json.dumps({"content_id": read_manifest(tmp_path / "graft").content_id, "shapes": SHAPES})
    )
    return tmp_path / "graft"


@pytest.fixture
def export(graft, capsys):
    def run(kind: str, *words: object) -> tuple[int, dict, Path]:
        out = graft.parent / f"{kind}-{len(list(graft.parent.iterdir()))}"
        status = topgraft.main(["export", str(graft), "--format", kind, "--out", str(out), *map(str, words), "--json"])
        return status, as_json(capsys.readouterr().out), out

    return run


def schema_errors(bill: dict) -> list[str]:
    """The errors of CycloneDX's own schema, which refers to two others."""
    folder = next(
        f.locate().parent for f in files_of("cyclonedx-python-lib") if f.name == "bom-1.6.SNAPSHOT.schema.json"
    )
    names = ("bom-1.6", "spdx", "jsf-0.82")
    schemas = [json.loads(Path(folder, f"{name}.SNAPSHOT.schema.json").read_text()) for name in names]
    registry = Registry().with_resources((one["$id"], Resource.from_contents(one)) for one in schemas)
    return [error.message for error in Draft7Validator(schemas[0], registry=registry).iter_errors(bill)]


def test_a_card_is_read_by_the_reference_parser(export, graft):
    profile = graft.parent / "profile.json"
    status, answer, out = export("card", "--carbon-intensity", 380, "--profile", profile)
    assert (status, answer["files"], answer["absent"]) == (0, ["README.md"], [])
    card = ModelCard.load(out / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("topgraft", "text-classification")
    scores = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert scores == {(split, name): value for split, values in METRICS.items() for name, value in values.items()}
    assert data["co2_eq_emissions"]["emissions"] == pytest.approx(72 / 3.6e6 * 380), "two phases of 36 J"
    text = (out / "README.md").read_text()
    assert "| training, joules | 72.0 (24.0 to 180.0) | modelled: CPU seconds times watts |" in text
    assert "| training, CPU seconds | 12.0 | measured_counter |" in text
    assert "| training, FLOP | 8000000000.0 | counted |" in text
    # 0.32 J a row of 32 tokens: 320 J for 1,000 rows, an hour has 3,600 s
    assert f"| 1,000 answers of 32 tokens, Wh | {320 / 3600!r} | modelled |" in text
    assert read_manifest(graft).content_id in text


def test_what_a_graft_lacks_is_said_and_not_filled_in(tiny, export, graft):
    make(graft.parent / "bare", tiny)
    out = graft.parent / "bare-card"
    assert topgraft.main(["export", str(graft.parent / "bare"), "--format", "card", "--out", str(out)]) == 0
    text = (out / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata.keys() == {"library_name", "tags", "pipeline_tag"}
    for sentence in (
        "the graft's manifest has no costs",
        "Scores: the graft's",
        "Energy of an answer:",
        "Carbon: give",
    ):
        assert sentence in text
    assert "joules |" not in text
    assert "license" not in metadata


def test_a_bill_is_valid_by_the_published_schema(export, graft):
    profile = graft.parent / "profile.json"
    for words in ((), ("--carbon-intensity", 380, "--profile", profile)):
        status, _, out = export("mlbom", *words)
        bill = json.loads((out / "bom.json").read_text())
        assert (status, schema_errors(bill)) == (0, [])
    model, manifest = bill["metadata"]["component"], read_manifest(graft)
    assert model["version"] == manifest.content_id
    hashes = {one["name"]: one["hashes"][0]["content"] for one in model["components"]}
    assert {name: f"sha256:{value}" for name, value in hashes.items()} == {
        name: value if value.startswith("sha256:") else f"sha256:{value}" for name, value in manifest.files.items()
    }
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {(m["slice"], m["type"]): float(m["value"]) for m in metrics} == {
        (split, name): value for split, values in METRICS.items() for name, value in values.items()
    }
    energy = model["modelCard"]["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    assert [one["activity"] for one in energy] == ["fine-tuning", "inference"]
    assert energy[0]["activityEnergyCost"]["value"] == pytest.approx(72 / 3.6e6)
    assert energy[0]["co2CostEquivalent"]["value"] == pytest.approx(72 / 3.6e6 * 380 / 1e6), "tonnes"
    purls = {one.get("purl") for one in bill["components"]}
    assert {"pkg:pypi/jax@0.10.2", "pkg:pypi/array-record@0.8.6"} <= purls
    refs = {model["bom-ref"], *(one["bom-ref"] for one in bill["components"])}
    assert all({one["ref"], *one["dependsOn"]} <= refs for one in bill["dependencies"])
    bill["metadata"]["component"]["modelCard"]["modelParameters"]["approach"]["type"] = "guessed"
    assert schema_errors(bill), "the schema refuses what is wrong"


def test_both_scores_by_the_formula(export, graft):
    words = ("--carbon-intensity", 400, "--embodied-training", 5, "--profile", graft.parent / "profile.json")
    status, answer, out = export("sci", *words, "--embodied-query", 0.001)
    assert (status, answer["absent"]) == (0, [])
    scores = json.loads((out / "sci.json").read_text())
    flop, parameter = scores["provider"]["scores"]
    grams = 72 / 3.6e6 * 400 + 5  # E I + M
    assert flop["score"] == pytest.approx(grams / 8e9)
    assert parameter["score"] == pytest.approx(grams / parameter["count"])
    (inference,) = scores["consumer"]["scores"]
    assert inference["score"] == pytest.approx(0.32 / 3.6e6 * 400 + 0.001)


def test_a_score_without_an_input_is_null_and_says_which(export):
    status, answer, out = export("sci")
    assert status == 0
    scores = json.loads((out / "sci.json").read_text())
    (inference,) = scores["consumer"]["scores"]
    assert (inference["score"], inference["missing"]) == (None, [ENERGY, "--carbon-intensity", "--embodied-query"])
    assert all(one["score"] is None and one["energy_quality"] == "modelled" for one in scores["provider"]["scores"])
    assert any(sentence.startswith("Carbon: give") for sentence in answer["absent"])


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("card", ("--embodied-query", 1), "--embodied-query: belongs to --format sci"),
        ("card", ("--buckets", 16), "--buckets: belongs to --format jax"),
        ("card", ("--backbone", "b"), "--backbone: --format card reads no backbone"),
        ("sci", ("--carbon-intensity", -1), "--carbon-intensity"),
        ("mlbom", ("--profile", "missing.json"), "no profile"),
        ("peft", ("--profile", "p.json"), "--profile: belongs to --format card or mlbom or sci"),
        ("cards", (), "nearest: card"),
    ],
)
def test_bad_requests(export, kind, words, message):
    status, answer, out = export(kind, *words)
    assert (status, message in answer["error"], out.exists()) == (2, True, False), answer["error"]


def test_a_profile_goes_with_its_graft_wherever_that_lies(tiny, export, graft):
    """By the content id: a copy elsewhere is the same graft, another one at the same path is not."""
    profile = graft.parent / "profile.json"
    shutil.copytree(graft, graft.parent / "copy")
    words = ["export", str(graft.parent / "copy"), "--format", "card", "--profile", str(profile), "--json"]
    assert topgraft.main([*words, "--out", str(graft.parent / "of-the-copy")]) == 0
    shutil.rmtree(graft)
    make(graft, tiny, seed=1)
    status, answer, _ = export("card", "--profile", profile)
    assert (status, "profile this graft" in answer["error"]) == (2, True)


def test_a_profile_of_another_graft_is_refused(export, graft):
    (graft.parent / "other.json").write_text(json.dumps({"content_id": "sha256:elsewhere", "shapes": SHAPES}))
    status, answer, _ = export("card", "--profile", graft.parent / "other.json")
    assert (status, "profile this graft" in answer["error"]) == (2, True)


@pytest.mark.parametrize("kind", ["card", "mlbom", "sci"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("joules_per_row", value) for value in (float("nan"), float("inf"), -5.0, True, "5", 10**400)),
        *(("tokens", value) for value in ("x", -1, 1.5)),
        ("p50_ms", float("nan")),
        ("joules_quality", "<b>x|y"),
    ],
    ids=str,
)
def test_a_profile_holds_numbers(export, graft, kind, field, value):
    shapes = [{**shape, field: value} for shape in SHAPES]
    file = graft.parent / "wrong.json"
    file.write_text(json.dumps({"content_id": read_manifest(graft).content_id, "shapes": shapes}))
    status, answer, out = export(kind, "--profile", file)
    assert (status, out.exists()) == (2, False)
    assert str(file) in answer["error"]
    assert f"shapes[0].{field}" in answer["error"]


def test_a_profile_is_read_in_its_encoding_and_the_last_line_counts(export, graft):
    profile = graft.parent / "profile.json"
    text = "a line of a log\n" + profile.read_text() + "\n\n"
    for encoding in ("utf-8-sig", "utf-16"):
        profile.write_bytes(text.encode(encoding))
        assert export("card", "--profile", profile)[0] == 0


def test_only_single_rows_count_and_a_profile_without_joules_gives_none(export, graft):
    values = json.loads((graft.parent / "profile.json").read_text())
    for shape in values["shapes"]:
        shape["joules_per_row"] = None if shape["batch"] == 1 else 1.0
    (graft.parent / "none.json").write_text(json.dumps(values))
    words = ("--carbon-intensity", 1, "--embodied-query", 0, "--profile", graft.parent / "none.json")
    _, answer, out = export("sci", *words)
    (inference,) = json.loads((out / "sci.json").read_text())["consumer"]["scores"]
    reason = "the profile has no joules; profile where power is known"
    assert (inference["kwh"], inference["missing"]) == (None, [f"energy: {reason}"])
    assert (inference["energy_quality"], answer["absent"]) == ("unavailable", [f"Energy of an answer: {reason}."])


def test_the_energy_of_an_answer_is_that_of_a_single_row(export, graft):
    values = json.loads((graft.parent / "profile.json").read_text())
    for shape in values["shapes"]:
        shape |= {"joules_per_row": 7.2, "joules_quality": "measured_counter"} if shape["batch"] == 1 else {}
    (graft.parent / "single.json").write_text(json.dumps(values))
    words = ("--profile", graft.parent / "single.json", "--carbon-intensity", 500)
    _, _, out = export("mlbom", *words)
    card = json.loads((out / "bom.json").read_text())["metadata"]["component"]["modelCard"]
    training, answer = card["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    assert answer["activityEnergyCost"]["value"] == pytest.approx(7.2 / 3.6e6)
    assert answer["co2CostEquivalent"]["value"] == pytest.approx(7.2 / 3.6e6 * 500 / 1e6), "tonnes"
    properties = [{one["name"]: one["value"] for one in side["properties"]} for side in (training, answer)]
    assert [one["topgraft:quality"] for one in properties] == ["modelled", "measured_counter"]
    assert (properties[0]["topgraft:joules_low"], properties[0]["topgraft:joules_high"]) == ("24.0", "180.0")
    _, _, out = export("sci", *words)
    (inference,) = json.loads((out / "sci.json").read_text())["consumer"]["scores"]
    assert inference["energy_quality"] == "measured_counter"


def remade(tiny, graft: Path, **training) -> None:
    """Makes the graft again with another record of its training."""
    shutil.rmtree(graft)
    make(graft, tiny, training=type(EMPTY)(**{**vars(EMPTY), **training}))


def test_rows_that_a_cache_gave_are_said_in_every_format(tiny, export, graft):
    remade(tiny, graft, costs=COSTS, rows_read=68)
    sentence = "Work on 68 rows: a cache held their states before the training"
    for kind, file in (("card", "README.md"), ("mlbom", "bom.json"), ("sci", "sci.json")):
        _, answer, out = export(kind, "--carbon-intensity", 380)
        assert sentence in (out / file).read_text()
        assert any(one.startswith(sentence) for one in answer["absent"])


def test_phases_that_only_read_have_no_count_and_others_are_named(tiny, export, graft):
    reading = {**PHASE, "flops": None, "joules": JOULES}
    words = ("--carbon-intensity", 400, "--embodied-training", 0)
    remade(tiny, graft, costs={"load": reading, "data": reading, **COSTS})
    _, answer, out = export("sci", *words)
    flop, parameter = json.loads((out / "sci.json").read_text())["provider"]["scores"]
    assert (flop["count"], flop["missing"]) == (8e9, [])
    assert flop["score"] == pytest.approx(4 * 36 / 3.6e6 * 400 / 8e9)
    assert not any("Operations" in one for one in answer["absent"])
    remade(tiny, graft, costs={"steps": reading, **COSTS})
    _, answer, out = export("sci", *words)
    flop, parameter = json.loads((out / "sci.json").read_text())["provider"]["scores"]
    reason = "nobody counts those of the phases steps"
    assert (flop["count"], flop["score"]) == (None, None)
    assert flop["missing"] == [f"count of the functional unit: {reason}"]
    assert parameter["score"] == pytest.approx(3 * 36 / 3.6e6 * 400 / parameter["count"])
    assert f"Operations of the training: {reason}." in answer["absent"]
    remade(tiny, graft, costs={"load": reading})
    _, answer, out = export("sci", *words)
    assert json.loads((out / "sci.json").read_text())["provider"]["scores"][0]["count"] is None
    assert "Operations of the training: its phases have none." in answer["absent"]


@pytest.mark.parametrize("kind", ["card", "mlbom", "sci"])
def test_figures_that_no_number_holds_are_refused(tiny, export, graft, kind):
    remade(tiny, graft, costs={"train": {**PHASE, "joules": {**JOULES, "value": 1e300}}})
    status, answer, out = export(kind, "--carbon-intensity", 1.7e308)
    assert (status, "beyond what a number holds" in answer["error"], out.exists()) == (2, True, False)


def test_what_an_input_is(tiny, export, graft, tmp_path):
    images = load_backbone(make_image_backbone(tmp_path / "images"))
    shutil.rmtree(graft)
    make(graft, images, max_tokens=images.lengths[-1])
    _, _, out = export("card")
    text = (out / "README.md").read_text()
    assert "| input | image |" in text
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "image-classification"


def test_nothing_is_a_figure_too(tiny, export, graft):
    """Zero joules, grams or intensity are given figures, not missing ones."""
    remade(tiny, graft, costs={"train": {**PHASE, "joules": {**JOULES, "value": 0.0}}})
    _, _, out = export("sci", "--carbon-intensity", 0, "--embodied-training", 0)
    for one in json.loads((out / "sci.json").read_text())["provider"]["scores"]:
        assert (one["score"], one["operational"], one["missing"]) == (0.0, 0.0, [])
    _, _, out = export("card", "--carbon-intensity", 0)
    assert "| training, g CO2eq | 0.0 |" in (out / "README.md").read_text()


def test_the_size_of_a_graft_is_that_of_its_tensors_and_files(tiny, export, graft):
    from safetensors.numpy import load_file

    _, _, out = export("card")
    text = (out / "README.md").read_text()
    numbers = sum(array.size for array in load_file(graft / "graft.safetensors").values())
    assert f"| parameters of the graft | {numbers} |" in text
    assert f"| bytes of the graft | {sum(file.stat().st_size for file in graft.iterdir())} |" in text
    assert "| training, seconds | 6.5 | measured_counter |" in text
    _, _, out = export("card", "--carbon-intensity", 380)
    assert f"| training, g CO2eq | {72 / 3.6e6 * 380!r} |" in (out / "README.md").read_text()


def test_names_and_labels_are_text_and_no_markup(tiny, graft, capsys):
    labels = ("<img src=x onerror=alert(1)>", "a\\|b | `c`", "x\r# Verified\n", "[click](javascript:alert(1))", "&lt;")
    name = "a\n---\nlicense: mit\x85\x7f\u2028\U0001f600"
    values = {**vars(EMPTY), "metrics": {"test": {"accuracy": 1e-05}}, "data": {"test": "`|`<b>"}}
    model = GraftModel(tiny.network, (Lora(rank=2),), Classification(), labels)
    params = unflatten({k: np.asarray(v, np.float32) for k, v in flatten(model.init(jax.random.key(0))).items()})
    out, training = graft.parent / "card", type(EMPTY)(**values)
    save_graft(graft.parent / "odd", model, params, tiny, name=name, max_tokens=48, training=training)
    assert topgraft.main(["export", str(graft.parent / "odd"), "--format", "card", "--out", str(out)]) == 0
    text = (out / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert head.isascii()
    (model_index,) = yaml.safe_load(head)["model-index"]
    assert model_index["name"] == name
    assert model_index["results"][0]["metrics"] == [{"type": "accuracy", "value": 1e-05}], "a number"
    assert "license" not in yaml.safe_load(head)
    assert all(line.isprintable() for line in body.split("\n"))
    assert "<" not in body
    (row,) = (line for line in body.split("\n") if line.startswith("| labels"))
    assert row == (
        "| labels | 5: &lt;img src=x onerror=alert(1)&gt;, a\\\\\\|b \\| \\`c\\`, x\\\\r# Verified\\\\n, "
        "\\[click\\](javascript:alert(1)), &amp;lt; |"
    )


def test_what_is_no_package_is_a_property_and_versions_are_encoded(tiny, export, graft):
    remade(tiny, graft, versions={"known answers": "right-1", "jax": "0.10+cuda 12", "python": "3.12.1"})
    _, _, out = export("mlbom")
    bill = json.loads((out / "bom.json").read_text())
    assert schema_errors(bill) == []
    assert [one.get("purl") for one in bill["components"]] == [None, "pkg:pypi/jax@0.10%2Bcuda%2012", None]
    properties = {one["name"]: one["value"] for one in bill["metadata"]["component"]["properties"]}
    assert properties["topgraft:known answers"] == "right-1"
