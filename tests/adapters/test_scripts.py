"""A graft whose own variant's script is missing, fails or has changed: every verb names the script and the remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import topgraft
from adapters.artefact.manifest import Training
from adapters.artefact.scripts import FAULTS, own_code
from adapters.methods.method import Method
from adapters.specs import Classification
from backbone.errors import InputError
from backbone.variants.registered import VARIANTS, run_script
from registry.database import open_registry
from registry.store import Store
from serving.live.catalogue import UNKNOWN, FolderCatalogue
from serving.server.envelopes import default_envelope
from serving.server.settings import Settings
from tests.command import call
from tests.grafts import make
from tests.tiny import write_config

SCRIPT = """
from dataclasses import dataclass, replace
from adapters.methods.lora import Lora

@dataclass(frozen=True)
class Gained(Lora, tag="gained"):
    gain: float = 2.0  # factor on the scale

    def settings(self, encoder):
        plain = super().settings(encoder)
        return {site: replace(setting, scale=self.gain * setting.scale) for site, setting in plain.items()}
"""
RENAMED = SCRIPT.replace("gain:", "boost:").replace("self.gain", "self.boost")
CHANGES = {  # a later text of the script, and a pattern of the message beside those that all have in common
    "missing": ("", r"'gained' is no variant of Topgraft: gained\.py defined it"),
    "a field is gone": (RENAMED, r"methods\[0\]\.gain: no such field in Gained; .*has changed since"),
    "a field is new": (
        SCRIPT.replace("    gain", "    other: int = 1\n    gain"),
        "does not match its own hash; .*has",
    ),
    "a field has another type": (SCRIPT.replace("float = 2.0", "str = ''"), r"gain: expected str.*has changed since"),
    "a value is refused": (SCRIPT + "    def __post_init__(self): raise ValueError('no')\n", "no; the graft .*changed"),
    "a part is gone": (SCRIPT.replace("super().settings", "super().places"), "AttributeError: .*'places'.*has changed"),
    "other tensors": (SCRIPT.replace("return {", "return {} and {"), "tensors do not fit.*has changed since"),
    "another result": (SCRIPT.replace("self.gain *", "3 * self.gain *"), "canary's logits differ .*may have changed"),
    "it fails": ("1/0", r"^TOPGRAFT_VARIANTS: .*gained\.py:1: ZeroDivisionError"),
}
READ_LATER = ("a part is gone", "other tensors", "another result")  # the files themselves are read without a fault


def forget() -> None:
    """Makes this process one that has not run the script."""
    Method.registry.variants.pop("gained", None)
    Method.registry.files.pop("gained", None)


@pytest.fixture
def graft(tiny, tmp_path, monkeypatch) -> Path:
    """Makes a graft of a method of one's own, named `t`, in a process that knows nothing of it afterwards."""
    script = tmp_path / "gained.py"
    script.write_text(SCRIPT)
    module = run_script(script)
    training = Training({"backbone_path": str(tiny.path)}, {}, {}, {}, {}, {})
    make(tmp_path / "grafts" / "t", tiny, module.Gained(rank=2), Classification(), training=training)
    forget()
    monkeypatch.setenv(VARIANTS, str(script))
    yield tmp_path / "grafts" / "t"
    forget()


def change(case: str, graft: Path) -> str:
    """Changes the script, and returns the pattern of the message."""
    text, message = CHANGES[case]
    (graft.parents[1] / "gained.py").write_text(text)
    forget()
    return rf"(?s){message}"


@pytest.mark.parametrize("case", CHANGES)
def test_a_graft_is_never_called_damaged_for_its_script(case, graft, tiny, caplog):
    assert topgraft.load(graft, tiny).manifest.methods[0].gain == 2.0
    message = change(case, graft)
    with pytest.raises(FAULTS, match=message) as told:
        topgraft.load(graft, tiny)
    assert VARIANTS in str(told.value)
    assert "gained.py" in str(told.value)
    assert not re.search("altered|damaged|restore|remove|again", str(told.value))
    if case not in READ_LATER:
        (entry,) = FolderCatalogue(graft.parent).lives().values()
        assert (entry.version, entry.lineage["error"]) == (UNKNOWN, str(told.value))
    if case == "a part is gone":
        settings = Settings(backbone=str(tiny.path), grafts=str(graft.parent))
        default_envelope(settings, tiny, FolderCatalogue(graft.parent))
        assert re.search(message, caplog.text), "the server starts, and logs why it does not serve it"


@pytest.mark.parametrize("case", ["missing", "a field is new"])
def test_the_registry_keeps_what_it_cannot_read(case, graft, tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    registry, store = open_registry(url), Store(tmp_path / "store")
    for _ in range(2):
        version = registry.publish("t", graft, store)
    registry.promote("t", 1, expected_generation=0, actor="a", reason="r", verdict="PASS")
    message = change(case, graft)
    place = ("--registry", url, "--store", str(store.root))
    for words in (
        ("publish", graft),
        ("publish", graft, "--task", "other"),
        ("promote", "t", 1, "--reason", "r"),
        ("diff", "t", 1),
        ("audit",),
    ):
        status, _, err = call("registry", *words, *place, capsys=capsys)
        assert (status, bool(re.search(message, err)), VARIANTS in err) == (2, True, True), err
        assert not re.search("altered|damaged|restore|remove|publish the graft again", err), err
    for words in (("list",), ("show", "t"), ("gc",)):
        status, _, err = call("registry", *words, *place, capsys=capsys)
        assert status == 0, err
    assert store.path(version.content_id).is_dir(), "gc removed nothing"


@pytest.mark.parametrize("case", ["missing", "a field is new"])
def test_every_verb_that_reads_a_graft(case, graft, tmp_path, capsys):
    message = change(case, graft)
    for words in (
        ("inspect", graft),
        ("predict", graft, "--text", "ban"),
        ("evaluate", graft, "--set", "data.test=test.csv"),
        ("profile", graft),
        ("export", graft, "--format", "peft", "--out", tmp_path / "out"),
        ("export", graft, "--format", "jax", "--out", tmp_path / "out"),
        ("combine", graft, graft, "--out", tmp_path / "out"),
    ):
        status, _, err = call(*words, "--quiet", capsys=capsys)
        assert (status, bool(re.search(message, err)), VARIANTS in err) == (2, True, True), f"{words}: {err}"
        assert not re.search("altered|damaged|restore|remove", err), err


def test_a_retraining_of_a_task_with_such_a_live_version(graft, tiny_path, tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    registry, store = open_registry(url), Store(tmp_path / "store")
    registry.publish("t", graft, store)
    registry.promote("t", 1, expected_generation=0, actor="a", reason="r", verdict="PASS")
    message = change("missing", graft)
    config = write_config(tmp_path / "t.py", tiny_path, tmp_path)
    place = ("--registry", url, "--store", str(store.root), "--quiet")
    status, _, err = call("retrain", config, "--set", "name=t", *place, capsys=capsys)
    assert (status, bool(re.search(message, err)), VARIANTS in err) == (2, True, True), err


def test_other_faults_keep_their_words():
    with pytest.raises(InputError, match=r"^no$"), own_code("here", {}):
        raise InputError("no")
    with pytest.raises(OSError, match="disk"), own_code("here", {"gained": "gained.py"}):
        raise OSError("disk")


def test_a_manifest_of_another_version_of_topgraft_is_told_apart_from_an_altered_one(tiny, tmp_path):
    import json

    from adapters.artefact.manifest import MANIFEST, _spelled, read_manifest
    from backbone.records import digest

    make(tmp_path / "g", tiny)
    file = tmp_path / "g" / MANIFEST
    values = json.loads(file.read_text()) | {"newer": 1, "manifest_id": ""}
    values["training"]["versions"] = {"topgraft": "9.1"}
    file.write_bytes(_spelled(values))
    with pytest.raises(InputError, match=r"newer: no such field in Manifest; .*; the manifest was altered or is dam"):
        read_manifest(tmp_path / "g")
    file.write_bytes(_spelled(values | {"manifest_id": digest(values)}))
    with pytest.raises(
        InputError, match=r"newer: no such field .*; .*is whole, but another version .* wrote it: 9\.1$"
    ):
        read_manifest(tmp_path / "g")
