"""`train-backbone` and `export-backbone` through the real command, on a tiny corpus and a tiny network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import topgraft
from backbone.errors import InputError
from backbone.exchange.exporting import export_hf
from backbone.exchange.importing import import_backbone
from backbone.images import ImagePreprocessing
from backbone.network.encoder import Network
from backbone.network.local_start import start_locally
from backbone.network.masked_head import abstract_head, load_head, save_head
from backbone.spec import EncoderSpec, ImageSpec
from backbone.storage import load_backbone, read_record, save_backbone
from backbone.trees import flatten
from tests.tiny import (
    SPEC,
    as_json,
    make_tiny_backbone,
    rows,
    write_config,
    write_csv,
)
from tests.trainers.pretraining.backbone_runs import (
    EVALUATED,
    ROOT,
    STEPS,
    call,
    killed_and_resumed,
    paragraphs,
    result_of,
    settings,
)
from trainers.pretraining.config import Corpus, WordPiece
from trainers.pretraining.corpus import read_text

SHALLOW = replace(SPEC, blocks=1)


def write_script(path: Path, corpus: Path, **fields: str) -> Path:
    """A config script; `fields` are Python expressions."""
    defaults = {
        "corpus": f"Corpus(files=({str(corpus)!r},), tokens=32, held_out_fraction=0.1)",
        "tokenizer": "WordPiece(vocabulary=120)",
        "network": "NewBert(blocks=2, width=32, heads=2, mlp_width=64)",
        "optimizer": "Optimizer(learning_rate=5e-3, warmup_fraction=0.1, weight_decay=0.01, clip_norm=1.0)",
        "steps": str(STEPS),
        "batch_size": "16",
        "evaluate_every": "80",
    }
    settings = ", ".join(f"{name}={value}" for name, value in (defaults | fields).items())
    path.write_text(
        "from trainers.pretraining.config import *\nfrom trainers.config import Optimizer\n\n"
        f"def get_config():\n    return BackboneConfig(name='tiny', {settings})\n"
    )
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with `corpus.txt` and `config.py`."""
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "corpus.txt").write_text("\n\n".join(paragraphs(600)), encoding="utf-8")
    write_script(folder / "config.py", folder / "corpus.txt")
    return folder


def test_a_run_learns_and_reports(whole, place, capsys):
    result = result_of(whole)
    assert result["finished"]
    assert result["steps"] == result["of_steps"] == STEPS
    assert result["gain"] > 0.25, "the next word follows from its neighbours"
    assert result["gain"] == pytest.approx(result["unigram_entropy"] - result["held_out_loss"])
    assert result["costs"]["train"]["flops"] > 0
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out/loss" in line] == EVALUATED
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(20, STEPS + 1, 20))
    record = read_record(whole / "backbone")
    assert record.weights_id == result["weights_id"]
    assert record.source["family"] == "bert"
    status, out, _ = call(
        "train-backbone", place / "config.py", "--workdir", whole, "--resume", "--json", capsys=capsys
    )
    assert status == 0
    assert as_json(out) == result, "a finished run returns its result"


def test_a_run_may_begin_with_heads_at_neighbours(whole, place, capsys):
    asked = settings("network.first_weights=local", "steps=1", "optimizer.learning_rate=1e-9")
    status, _, err = call("train-backbone", place / "config.py", "--workdir", place / "local", *asked, capsys=capsys)
    assert status == 0, err
    begun = load_backbone(place / "local" / "backbone")
    wanted = start_locally(begun.spec, begun.network.init(1))["embeddings"]["position"]
    np.testing.assert_allclose(begun.params["embeddings"]["position"], wanted, atol=1e-6)
    other = load_backbone(whole / "backbone").params["embeddings"]["position"]
    assert np.abs(other - wanted).max() > 0.01


def test_a_graft_is_trained_on_the_result(whole, tmp_path, capsys):
    config = write_config(tmp_path / "graft.py", whole / "backbone", tmp_path)
    for name, seed in (("train", 1), ("test", 2)):  # short texts only: one bucket
        write_csv(tmp_path / f"{name}.csv", [row for row in rows(240, seed=seed) if len(row[0].split()) == 5])
    status, out, err = call(
        "train", config, "--workdir", "g", *settings("data.max_tokens=32", "adapter.method=probe"), "--json",
        capsys=capsys,
    )  # fmt: skip
    assert status == 0, err
    assert as_json(out)["metrics"]["test"]["accuracy"] > 0.6
    assert topgraft.load("g/graft").predict(["ban bas"])


def test_killed_and_resumed_is_bit_identical(whole, place, tmp_path, capsys):
    killed_and_resumed(place, tmp_path / "run", whole, capsys)


def test_resuming_another_run_is_refused_by_name(whole, place, tmp_path, capsys):
    arguments = ("train-backbone", place / "config.py", "--workdir")
    status, _, err = call(*arguments, whole, capsys=capsys)
    assert (status, "holds a run already; --resume" in err) == (2, True)
    status, _, err = call(*arguments, whole, "--resume", "--set", "seed=1", capsys=capsys)
    assert (status, "seed (0 then, 1 now)" in err) == (2, True)
    other = tmp_path / "other"
    call(*arguments, other, "--set", "corpus.held_out_fraction=0.0000001", capsys=capsys)  # makes the folder, no more
    shutil.copytree(whole / "checkpoints", other / "checkpoints")
    shutil.copy(whole / "tokenizer.json", other)
    (other / "config.json").write_text((whole / "config.json").read_text().replace('"seed": 0', '"seed": 7'))
    status, _, err = call(*arguments, other, "--resume", "--set", "seed=7", capsys=capsys)
    assert (status, "the run's config has changed" in err) == (2, True), err


def test_export_and_import_give_the_same_weights(whole, tmp_path, capsys):
    status, out, err = call("export-backbone", whole, "--format", "hf", "--out", "hf", "--json", capsys=capsys)
    assert status == 0, err
    report = as_json(out)
    assert report["architecture"] == "BertForMaskedLM"
    assert report["head"]
    imported = import_backbone("hf", "back")
    assert imported.weights_id == report["weights_id"] == result_of(whole)["weights_id"]
    assert imported.preprocessing_id == result_of(whole)["preprocessing_id"]
    status, _, err = call("export-backbone", whole, "--format", "hf", "--out", "hf", capsys=capsys)
    assert (status, "exists already" in err) == (2, True)


def test_a_backbone_with_a_pooler_and_without_a_head_exports_too(tiny_path, tmp_path):
    report = export_hf(tiny_path, tmp_path / "hf")
    assert (report.architecture, report.head) == ("BertModel", False)
    assert import_backbone(tmp_path / "hf", tmp_path / "back").weights_id == read_record(tiny_path).weights_id


def test_a_family_without_export_is_refused(tiny_path, tmp_path):
    folder = shutil.copytree(tiny_path, tmp_path / "odd")
    record = json.loads((folder / "backbone.json").read_text())
    record["source"]["family"] = "odd"
    (folder / "backbone.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="family 'odd' cannot be exported; only albert, bert can"):
        export_hf(folder, tmp_path / "hf")


def test_going_on_with_the_head_or_with_a_fresh_one(whole, place, capsys):
    """The first step of a warm-up has a rate of zero, so the held-out loss after it is what the run began with."""
    at_once = settings(f"start={whole}", "network=none", "tokenizer=none", "max_seconds=0.0001")
    found = {}
    for head in ("kept", "fresh"):
        status, out, err = call(
            "train-backbone", place / "config.py", "--workdir", head, *at_once, "--set", f"start_head={head}", "--json",
            capsys=capsys,
        )  # fmt: skip
        assert status == 0, err
        found[head] = as_json(out)
        assert found[head]["steps"] == 1
    before = result_of(whole)
    assert found["kept"]["held_out_loss"] == before["held_out_loss"]
    assert found["kept"]["weights_id"] == before["weights_id"]
    assert found["fresh"]["held_out_loss"] > before["held_out_loss"] + 0.1
    assert found["kept"]["preprocessing_id"] == before["preprocessing_id"]
    assert read_record(Path("kept/backbone")).source["start"] == before["weights_id"]


def test_an_imported_backbone_goes_on_and_its_pooler_stays(place, tmp_path, capsys):
    """Also accumulation, rematerialisation and bfloat16, on weights that stay float32."""
    start = make_tiny_backbone(tmp_path / "start", spec=SHALLOW)
    status, out, err = call(
        "train-backbone", place / "config.py", "--workdir", "on", "--json",
        *settings(
            f"start={start}", "network=none", "tokenizer=none", "steps=3", "optimizer.accumulate=2", "remat=true",
            "compute_dtype=bfloat16", "optimizer.schedule=cosine",
        ),
        capsys=capsys,
    )  # fmt: skip
    assert status == 0, err
    assert as_json(out)["of_steps"] == 6
    after, before = (flatten(load_backbone(path).params) for path in ("on/backbone", start))
    for path, leaf in after.items():
        same = np.array_equal(leaf, before[path])
        assert same == path.startswith("pooler."), path


def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(whole, place, tmp_path, capsys):
    """Both the description, which is read first, and the arrays."""
    copy = shutil.copytree(whole, tmp_path / "run")
    (copy / "result.json").unlink()
    newest = max((copy / "checkpoints").iterdir(), key=lambda path: int(path.name))
    arguments = ("train-backbone", place / "config.py", "--workdir", copy, "--resume", "--json")
    for file in ("_CHECKPOINT_METADATA", "state/manifest.ocdbt"):
        (found,) = newest.rglob(file)
        content = found.read_bytes()
        found.write_bytes(content[: len(content) // 2])
        status, _, err = call(*arguments, capsys=capsys)
        assert status == 2, err
        assert f"--resume: {newest}: not readable as an Orbax checkpoint" in err
        assert "remove that folder to go on from the checkpoint before it" in err
        found.write_bytes(content)
    shutil.rmtree(newest)
    status, out, err = call(*arguments, capsys=capsys)
    assert status == 0, err
    assert as_json(out)["weights_id"] == result_of(whole)["weights_id"]


def test_a_corpus_that_was_too_small_leaves_no_tokenizer_behind(tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("ban bas\n\nkol ban")
    config = write_script(tmp_path / "config.py", corpus, steps="2")
    status, _, err = call("train-backbone", config, "--workdir", "run", capsys=capsys)
    assert status == 2
    assert "fewer than one batch" in err
    corpus.write_text("\n\n".join(paragraphs(200)), encoding="utf-8")
    status, out, err = call("train-backbone", config, "--workdir", "run", "--json", capsys=capsys)
    assert status == 0, err
    made = WordPiece(vocabulary=120).tokenizer(read_text(Corpus((str(corpus),), 32, 0.1)).train, 32)
    assert as_json(out)["preprocessing_id"] == made.preprocessing_id, "the vocabulary of what is read now"


def test_a_run_that_diverges_says_so_and_counts_what_it_skipped(place, capsys, caplog):
    status, _, err = call(
        "train-backbone", place / "config.py", "--workdir", "wild", "--json",
        *settings("optimizer.learning_rate=1e30", "optimizer.clip_norm=0", "steps=40", "network.blocks=1"),
        capsys=capsys,
    )  # fmt: skip
    assert status == 2
    assert "of them skipped as not finite: the run diverged" in err
    assert "batches up to step 20 were skipped" in caplog.text
    lines = [json.loads(line) for line in Path("wild/metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("train/skipped", 0) for line in lines) > 30


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("corpus.files=nowhere.txt",), "corpus.files: nowhere.txt: no such file or folder"),
        (("corpus.files=",), "corpus.files: names no file"),
        (("corpus.files=empty",), "the folder holds no *.txt, *.parquet"),
        (("corpus.files=texts",), "texts/b.txt:1: byte 7 is not valid utf-8; convert the file"),
        (("corpus.files=blank.txt",), "blank.txt: holds no text"),
        (("batch_size=4000",), "fewer than one batch of 4000"),
        (("corpus.held_out_fraction=0.00001",), "make no whole sequence of 32 tokens to score"),
        (("tokenizer.vocabulary=32",), "tokenizer.vocabulary: the corpus has"),
        (("tokenizer=file",), "tokenizer.path: names no tokenizer.json"),
        (("start=TINY",), "network: start brings its own; set network=none"),
        (("start=TINY", "network=none"), "tokenizer: start brings its own; set tokenizer=none"),
        (("network=none",), "network: none needs start"),
        (("start_head=kept",), "start_head: kept needs start"),
        (("start=TINY", "network=none", "tokenizer=none", "start_head=kept"), "head.safetensors: missing"),
        (("start=TINY", "network=none", "tokenizer=none", "corpus.tokens=65"), "corpus.tokens: 65 exceeds 64"),
        (("start=TINY", "network=none", "tokenizer=file"), "tokenizer.path"),
        (("network.heads=32", "network.first_weights=local"), "32 heads share a width of 32"),
        (("objective.fraction=0",), "objective.fraction: must lie between 0 and 1"),
        (("stepz=1",), "stepz: no such field in BackboneConfig; nearest: steps"),
    ],
)
def test_bad_settings_exit_with_two_and_name_the_culprit(values, message, place, tiny_path, capsys):
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("ban bas\n")
    Path("texts/b.txt").write_bytes(b"ban bas\xff\xfe\n")
    Path("blank.txt").write_bytes("\ufeff \n\n\n".encode())
    values = settings(*(value.replace("TINY", str(tiny_path)) for value in values))
    status, _, err = call("train-backbone", place / "config.py", "--workdir", "run", *values, capsys=capsys)
    assert (status, message in err) == (2, True), err


def test_a_tokenizer_of_another_backbone_is_refused(whole, tiny_path, place, tmp_path, capsys):
    script = write_script(
        tmp_path / "on.py", place / "corpus.txt", start=repr(str(tiny_path)), network="None",
        tokenizer=f"TokenizerFile({str(whole / 'tokenizer.json')!r})",
    )  # fmt: skip
    status, _, err = call("train-backbone", script, "--workdir", "run", capsys=capsys)
    assert (status, "is another tokenizer than that of" in err) == (2, True), err


def test_a_backbone_of_images_is_refused(place, tmp_path, capsys):
    image = ImageSpec(size=8, patch=4, mean=(0.5,), std=(0.5,))
    spec = EncoderSpec(
        blocks=1, width=8, heads=2, mlp_width=8, vocabulary=0, positions=image.tokens, segments=0, norm="pre",
        embedding_norm=False, image=image,
    )  # fmt: skip
    save_backbone(tmp_path / "vit", spec, Network(spec).init(0), ImagePreprocessing(image, resize=8), {"family": "vit"})
    values = settings(f"start={tmp_path / 'vit'}", "network=none", "tokenizer=none")
    status, _, err = call("train-backbone", place / "config.py", "--workdir", "run", *values, capsys=capsys)
    assert (status, "reads images, and masked_tokens needs a backbone that reads text" in err) == (2, True), err
    with pytest.raises(InputError, match="family 'vit' cannot be exported"):
        export_hf(tmp_path / "vit", tmp_path / "hf")


def test_a_graft_config_is_no_backbone_config(place, capsys):
    status, _, err = call("train", place / "config.py", capsys=capsys)
    assert (status, "returned BackboneConfig, expected TrainConfig" in err) == (2, True)


def test_a_head_belongs_to_its_weights(whole, tmp_path):
    backbone = load_backbone(whole / "backbone")
    wanted = abstract_head(backbone.spec)
    head = load_head(whole, wanted, backbone.weights_id)
    save_head(tmp_path, head, "sha256:" + "0" * 64)
    with pytest.raises(InputError, match="finish the run with --resume"):
        load_head(tmp_path, wanted, backbone.weights_id)
    (tmp_path / "head.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(InputError, match="truncated"):
        load_head(tmp_path, wanted, backbone.weights_id)


def test_the_same_paragraphs_give_the_same_vocabulary_in_another_process(place):
    code = (
        "from trainers.pretraining.config import *; from trainers.pretraining.corpus import *\n"
        f"text = read_text(Corpus(files=({str(place / 'corpus.txt')!r},)))\n"
        "print(WordPiece(vocabulary=60).tokenizer(text.train, 32).preprocessing_id)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    text = read_text(Corpus(files=(str(place / "corpus.txt"),)))
    assert done.stdout.strip() == WordPiece(vocabulary=60).tokenizer(text.train, 32).preprocessing_id
