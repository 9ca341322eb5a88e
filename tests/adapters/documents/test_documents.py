"""Documents about a graft: every number is the manifest's, what is missing is said, and schemas and parsers agree."""

from __future__ import annotations

import json
from importlib.metadata import files as files_of
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from jsonschema import Draft7Validator
from referencing import Registry, Resource

import topgraft
from adapters.artefact.manifest import read_manifest, uncounted
from backbone.records import decode
from metering.cost import CostRecord
from tests.grafts import EMPTY, make
from tests.tiny import as_json

JOULES = {"quality": "modelled", "value": 36.0, "low": 12.0, "high": 90.0, "source": "CPU seconds times watts"}
PHASE = {"wall_seconds": 3.25, "cpu_seconds": 6.0, "peak_bytes": None, "flops": 4e9, "bytes_moved": 1.0, "watts": 6.0}
COSTS = {"train": {**PHASE, "joules": JOULES}, "evaluate": {**PHASE, "joules": JOULES}}
METRICS = {"test": {"accuracy": 0.8125, "macro_f1": 0.79}, "dev": {"accuracy": 0.84375}}
COUNTS = {"load": None, "data": None, "probe": None, "fill": 10.0, "steps": None}
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
    (tmp_path / "profile.json").write_text(json.dumps({"graft": str(tmp_path / "graft"), "shapes": SHAPES}))
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
    assert (inference["score"], inference["missing"]) == (None, ["energy", "--carbon-intensity", "--embodied-query"])
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


def test_a_profile_of_another_graft_is_refused(export, graft):
    (graft.parent / "other.json").write_text(json.dumps({"graft": "elsewhere", "shapes": SHAPES}))
    status, answer, _ = export("card", "--profile", graft.parent / "other.json")
    assert (status, "profile this graft" in answer["error"]) == (2, True)
