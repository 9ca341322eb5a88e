"""A stored graft is whole, on its own backbone and reproduces its canary, or it does not load."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import topgraft
from adapters.artefact.manifest import Training, read_manifest
from adapters.artefact.write import save_graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora, Method, MultiLabel, Probe
from backbone.errors import InputError
from backbone.preprocessing import TextPreprocessing
from backbone.trees import flatten
from backbone.variants.registered import variants
from tests.grafts import EMPTY, LABELS, make
from tests.tiny import make_tiny_backbone, rows

SPECS = [method.example() for method in variants(Method).values()]


@pytest.fixture
def graft(tiny, tmp_path) -> Path:
    make(tmp_path / "graft", tiny)
    return tmp_path / "graft"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.tag)
def test_what_is_loaded_is_what_was_saved(tiny, tmp_path, spec):
    head = MultiLabel() if isinstance(spec, (Lora, Probe)) else Classification()
    manifest, model, params = make(tmp_path / "g", tiny, spec, head)
    loaded = topgraft.load(tmp_path / "g", tiny)
    assert loaded.manifest == manifest
    assert loaded.model == model
    for (path, found), (_, wanted) in zip(flatten(loaded.params).items(), flatten(params).items(), strict=True):
        np.testing.assert_array_equal(found, wanted, err_msg=path)
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == [
        "canary.safetensors",
        "graft.safetensors",
        "manifest.json",
    ]


def test_predictions_from_a_path_alone(tiny, tmp_path):
    manifest, _, _ = make(
        tmp_path / "g", tiny, training=Training({"backbone_path": str(tiny.path)}, {}, {}, {}, {}, {})
    )
    loaded = topgraft.load(tmp_path / "g")
    texts = [text for text, _ in rows(30)] + ["", "x" * 1000]
    answers = loaded.predict(texts)
    logits = loaded.logits(texts)
    for answer, row in zip(answers, logits, strict=True):
        assert answer.label == LABELS[row.argmax()]
        assert answer.label == next(iter(answer.probabilities))
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    for i in (0, 7, 31):
        np.testing.assert_allclose(loaded.logits([texts[i]])[0], logits[i], atol=1e-5)
    assert loaded.predict([]) == []
    with pytest.raises(InputError, match=r"one str"):
        loaded.predict("a text")
    with pytest.raises(InputError, match=r"texts\[1\]"):
        loaded.predict(["a", None])
    assert manifest.content_id == loaded.manifest.content_id


def test_the_id_depends_on_tensors_and_identity_and_on_nothing_else(tiny, tmp_path):
    reference, _, _ = make(tmp_path / "a", tiny)
    other = Training({"x": 1}, {"seed": 5}, {"train": "y"}, {"test": {"accuracy": 1.0}}, {"train": 3}, {"jax": "0"})
    again, _, _ = make(tmp_path / "b", tiny, training=other)
    assert again.content_id == reference.content_id
    assert again.manifest_id != reference.manifest_id
    assert make(tmp_path / "c", tiny, seed=1)[0].content_id != reference.content_id
    assert make(tmp_path / "d", tiny, Lora(rank=2, alpha=3.0))[0].content_id != reference.content_id


def test_a_flipped_byte_anywhere_is_an_error(graft, tiny):
    """Every 97th byte of each of the three files, each bit pattern restored afterwards."""
    for file in graft.iterdir():
        whole = file.read_bytes()
        for place in {*range(0, len(whole), max(1, len(whole) // 97)), len(whole) - 1}:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(InputError):
                topgraft.load(graft, tiny)
        file.write_bytes(whole)
    topgraft.load(graft, tiny)


def test_truncated_missing_and_empty_files(graft, tiny):
    for file in list(graft.iterdir()):
        whole = file.read_bytes()
        for content in (whole[:-1], whole[: len(whole) // 2], b""):
            file.write_bytes(content)
            with pytest.raises(InputError, match=file.name):
                topgraft.load(graft, tiny)
        file.unlink()
        with pytest.raises(InputError, match=file.name):
            topgraft.load(graft, tiny)
        file.write_bytes(whole)
    with pytest.raises(InputError, match="no such graft"):
        topgraft.load(graft / "nowhere", tiny)


def test_a_work_folder_names_the_graft_in_it(graft):
    with pytest.raises(InputError, match=r"a work folder; its graft is .*graft$"):
        topgraft.load(graft.parent)


def test_another_backbone_is_refused(graft, tmp_path, tiny):
    other = make_tiny_backbone(tmp_path / "other", seed=2)
    with pytest.raises(InputError, match=r"grafted on another backbone: its weights_id"):
        topgraft.load(graft, other)
    with pytest.raises(InputError, match=r"--backbone DIR"):
        topgraft.load(graft)


def resealed(graft: Path, **changes) -> None:
    """A manifest whose own hash is right but whose content lies."""
    from dataclasses import replace

    from adapters.artefact.manifest import dumps, sealed

    manifest = read_manifest(graft)
    (graft / "manifest.json").write_bytes(dumps(sealed(replace(manifest, **changes))))


def test_tensors_exchanged_with_a_right_checksum_are_still_refused(graft, tiny):
    from backbone.files import sha256_file

    tensors = load_file(graft / "graft.safetensors")
    name = next(iter(tensors))
    for change, message in (
        ({name: tensors[name] + 1}, "content_id does not match"),
        ({name: tensors[name][:1]}, "names or shapes differ"),
        ({name: tensors[name].astype(np.float16)}, "names or shapes differ"),
        ({"extra": np.zeros(2, np.float32)}, "names or shapes differ"),
    ):
        save_file({**tensors, **change}, graft / "graft.safetensors")
        files = {**read_manifest(graft).files, "graft.safetensors": sha256_file(graft / "graft.safetensors")}
        resealed(graft, files=files)
        with pytest.raises(InputError, match=message):
            topgraft.load(graft, tiny)


def test_a_graft_that_does_not_reproduce_its_canary_is_refused(graft, tiny):
    from backbone.files import sha256_file

    canary = load_file(graft / "canary.safetensors")
    canary["logits"][3, 1] += 0.5
    save_file(canary, graft / "canary.safetensors")
    files = {**read_manifest(graft).files, "canary.safetensors": sha256_file(graft / "canary.safetensors")}
    resealed(graft, files=files)
    with pytest.raises(InputError, match=r"canary's logits differ by 0\.5"):
        topgraft.load(graft, tiny)


def test_a_graft_whose_canary_is_not_a_number_is_refused(graft, tiny):
    """Nothing is larger than what is not a number, so the comparison must not ask for that."""
    from backbone.files import sha256_file

    canary = load_file(graft / "canary.safetensors")
    canary["logits"][0, 0] = np.nan
    save_file(canary, graft / "canary.safetensors")
    files = {**read_manifest(graft).files, "canary.safetensors": sha256_file(graft / "canary.safetensors")}
    resealed(graft, files=files)
    with pytest.raises(InputError, match=r"canary's logits differ by nan"):
        topgraft.load(graft, tiny)


FORGED = {
    "no logits": lambda canary: canary.pop("logits"),
    "another name": lambda canary: canary.update(more=np.zeros(1, np.float32)),
    "ids of another shape": lambda canary: canary.update(ids=canary["ids"][:, :-1].copy()),
    "ids without an axis": lambda canary: canary.update(ids=canary["ids"][:, 0].copy()),
    "ids beyond the vocabulary": lambda canary: canary["ids"].__setitem__((0, 0), 10**6),
    "ids below nought": lambda canary: canary["ids"].__setitem__((0, 0), -1),
    "no row": lambda canary: canary.update(ids=canary["ids"][:0].copy(), mask=canary["mask"][:0].copy()),
    "a mask of numbers": lambda canary: canary.update(mask=canary["mask"].astype(np.int8)),
    "logits that would be broadcast": lambda canary: canary.update(logits=canary["logits"][:1].copy()),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_canary_is_refused(kind, graft, tiny):
    from backbone.files import sha256_file

    canary = load_file(graft / "canary.safetensors")
    FORGED[kind](canary)
    save_file(canary, graft / "canary.safetensors")
    files = {**read_manifest(graft).files, "canary.safetensors": sha256_file(graft / "canary.safetensors")}
    resealed(graft, files=files)
    with pytest.raises(InputError, match=r"canary\.safetensors: "):
        topgraft.load(graft, tiny)


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "adapter", "head.bias.more"])
def test_names_that_no_tree_gives_are_refused(name, graft, tiny):
    """Empty parts, and a name that begins another one."""
    from backbone.files import sha256_file
    from backbone.trees import describe

    tensors = {**load_file(graft / "graft.safetensors"), name: np.zeros(2, np.float32)}
    save_file(tensors, graft / "graft.safetensors")
    files = {**read_manifest(graft).files, "graft.safetensors": sha256_file(graft / "graft.safetensors")}
    resealed(graft, files=files, tensors={key: describe(leaf) for key, leaf in tensors.items()})
    with pytest.raises(InputError, match="is no name of a parameter, or begins the name of another one"):
        topgraft.load(graft, tiny)


def test_another_tokenizer_is_refused(graft, tiny):
    """The same weights with a tokenizer that keeps capitals: the ids of a text would be others."""
    text = tiny.preprocessing.tokenizer_json
    assert '"lowercase": true' in text
    other = TextPreprocessing.from_file_text(text.replace('"lowercase": true', '"lowercase": false'), 64, "other")
    with pytest.raises(InputError, match=r"grafted on another backbone: its preprocessing_id"):
        topgraft.load(graft, replace(tiny, preprocessing=other))


def test_values_that_are_not_finite_are_not_saved(tiny, tmp_path):
    model = GraftModel(tiny.network, (Lora(rank=2),), Classification(), LABELS)
    params = jax.tree.map(np.array, model.init(jax.random.key(0)))
    params["head"]["bias"][1] = np.nan
    with pytest.raises(InputError, match=r"not finite in head\.bias"):
        save_graft(tmp_path / "g", model, params, tiny, name="t", max_tokens=48, training=EMPTY)
    assert not list(tmp_path.iterdir())


def test_an_existing_graft_is_not_overwritten(graft, tiny):
    with pytest.raises(InputError, match="exists already"):
        make(graft, tiny)


def test_grafts_that_differ_in_names_share_the_program_of_their_canary(graft, tiny, tmp_path):
    loaded = topgraft.load(graft, tiny)
    other = replace(loaded.model, labels=("fourth", "fifth", "sixth"))
    told = {"name": "t", "max_tokens": 48, "training": EMPTY}
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    manifest = save_graft(tmp_path / "other", other, loaded.params, tiny, **told)
    assert topgraft.load(tmp_path / "other", tiny).model.labels == other.labels
    assert manifest.content_id != loaded.manifest.content_id
    assert compiled == []
    save_graft(tmp_path / "more", replace(other, labels=("a", "b")), narrower(loaded.params), tiny, **told)
    assert compiled, "another shape is another program"


def narrower(params: dict) -> dict:
    """The parameters of a graft of two labels."""
    return params | {"head": {name: leaf[..., :2] for name, leaf in params["head"].items()}}


def test_a_full_disk_leaves_the_old_graft_and_no_debris(graft, tiny, tmp_path):
    """A real limit on file size: the write fails inside save_graft, in another process."""
    before = {file.name: file.read_bytes() for file in graft.iterdir()}
    code = (
        "import resource, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from backbone.storage import load_backbone; from tests.grafts import make\n"
        "b = load_backbone(sys.argv[2]); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "make(Path(sys.argv[1]), b, seed=9, replace_existing=True)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, graft, tiny.path, root],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TOPGRAFT_COMPILATION_CACHE": "0"},
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert {file.name: file.read_bytes() for file in graft.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["graft"]
    topgraft.load(graft, tiny)


def test_kill_minus_nine_while_saving_leaves_a_whole_graft(graft, tiny, tmp_path):
    """A process that saves over the graft for ever, killed at instants spread over a save."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from backbone.storage import load_backbone; from tests.grafts import make\n"
        "b = load_backbone(sys.argv[2]); n = 0\n"
        "while True:\n"
        "    n += 1; make(Path(sys.argv[1]), b, seed=n % 3, replace_existing=True); print(n, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[2]
    for delay in (0.0, 0.003, 0.011, 0.02):
        process = subprocess.Popen(
            [sys.executable, "-c", code, graft, tiny.path, root], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        aside = [p for p in tmp_path.glob(".graft.old*") if (p / "manifest.json").exists()]
        # what lies aside is being removed once the new one has the name
        whole = [graft] if graft.exists() else aside
        assert len(whole) == 1, "one whole graft is there, under its name or moved aside"
        topgraft.load(whole[0], tiny)
        if not graft.exists():
            shutil.move(whole[0], graft)
        for former in tmp_path.glob(".graft.old*"):
            shutil.rmtree(former)


def test_the_manifest_is_readable_by_people_and_machines(graft):
    content = json.loads((graft / "manifest.json").read_text())
    assert content["labels"] == list(LABELS)
    assert content["methods"][0]["method"] == "lora"
    assert content["tensors"]["adapter.lora.0.attention/query.a"] == "float32[32,2]"
