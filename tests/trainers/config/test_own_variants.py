"""A method of a user's own: one script defines it and trains with it; its grafts load where the script is named."""

from __future__ import annotations

import re

import numpy as np
import pytest

import topgraft
from adapters.methods.lora import Lora
from adapters.methods.method import Method
from backbone.buckets import pad
from backbone.errors import InputError
from backbone.records import encode
from backbone.variants.registered import VARIANTS
from serving.live.catalogue import FolderCatalogue
from tests.command import call, run
from tests.tiny import WORDS, as_json, write_config
from trainers.config.load import load_config

METHOD = '''
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from adapters.methods.lora import Lora
from adapters.methods.settings import require_positive


@dataclass(frozen=True)
class ScaledLora(Lora, tag="scaled_lora"):
    """LoRA whose update has a factor of its own."""

    gain: float = 2.0  # factor on the scale
    sign: Literal["plus", "minus"] = "plus"  # direction of the update

    def __post_init__(self):
        super().__post_init__()
        require_positive(gain=self.gain)

    def settings(self, encoder):
        gain = self.gain if self.sign == "plus" else -self.gain
        plain = super().settings(encoder)
        return {site: replace(setting, scale=gain * setting.scale) for site, setting in plain.items()}


'''


FEATURES = '''
from __future__ import annotations

from dataclasses import dataclass

from adapters.methods.method import FeatureMethod
from backbone.lazy import jax, jnp


@dataclass(frozen=True)
class ScalarMix(FeatureMethod, tag="scalar_mix"):
    """A learned mixture of the states at every boundary (Peters et al. 2018, equation 1)."""

    scale: float = 1.0  # factor on the mixture

    def taps(self, encoder):
        return tuple(range(encoder.blocks + 1))

    def width(self, encoder):
        return encoder.width

    def init(self, encoder, rng):
        return {"weights": jnp.zeros((encoder.blocks + 1,))}

    def features(self, encoder, params, states, mask, pool):
        shares = jax.nn.softmax(params["weights"])
        return pool(self.scale * sum(shares[boundary] * state for boundary, state in states.items()))


'''


@pytest.fixture
def write_script(tmp_path, tiny_path):
    """Writes a config script that defines a method and trains with it."""

    def write(name: str, method: str, adapter: str):
        path = write_config(tmp_path / name, tiny_path, tmp_path, adapter=adapter, epochs="1.0")
        path.write_text(method + path.read_text())
        return path

    yield write
    for tag in ("scaled_lora", "scalar_mix", "doubled"):  # other tests of this process run over every registered method
        Method.registry.variants.pop(tag, None)
        Method.registry.files.pop(tag, None)


@pytest.fixture
def script(write_script):
    return write_script("scaled.py", METHOD, "ScaledLora(rank=2)")


def test_a_method_of_a_users_own_trains_and_loads_where_its_script_is_named(script, tmp_path, monkeypatch):
    graft = tmp_path / "run" / "graft"
    trained = as_json(run("train", script, "--workdir", tmp_path / "run", "--json", "--set", "adapter.gain=3").stdout)
    values = trained["content_id"]

    text = " ".join(WORDS[:4])
    monkeypatch.setenv(VARIANTS, str(script))
    assert as_json(run("predict", graft, "--text", text, "--json").stdout)
    facts = as_json(run("inspect", graft, "--json").stdout)["facts"]
    assert facts["content_id"] == values
    assert facts["methods"][0]["method"] == "scaled_lora"
    assert facts["methods"][0]["gain"] == 3.0

    monkeypatch.delenv(VARIANTS)
    refused = run("predict", graft, "--text", text, check=False)
    assert refused.returncode == 2
    expected = r"manifest\.json: 'scaled_lora' is no variant .*: scaled\.py defined it .*; import .*TOPGRAFT_VARIANTS"
    assert re.search(expected, refused.stderr), refused.stderr
    assert str(tmp_path / "scaled.py") not in refused.stderr, "a manifest names the file alone, not the maker's folders"


def test_the_file_of_a_variant_is_no_part_of_a_grafts_identity(tiny, tmp_path):
    """A graft of Topgraft's methods alone names no file, and its manifest is spelt as before the field existed."""
    from dataclasses import replace

    from adapters.artefact.manifest import dumps, identity, sealed
    from tests.grafts import make

    manifest, _, _ = make(tmp_path / "graft", tiny)
    assert manifest.training.variants == {}
    assert b'"variants": {' not in dumps(manifest)
    told = replace(manifest, training=replace(manifest.training, variants={"mine": "mine.py"}))
    assert identity(told) == identity(manifest)
    assert sealed(told).manifest_id != manifest.manifest_id, "a changed file name is noticed"


def test_the_same_script_by_another_path_is_the_same_file(script):
    first, again = load_config(script), load_config(script.name)
    assert first.adapter.method == "scaled_lora"
    assert encode(first) == encode(again), "relative to the working folder"
    script.with_name("copy.py").write_text(script.read_text())
    with pytest.raises(InputError, match=r"method=scaled_lora: .*copy\.py defines it, but .*scaled\.py has that name"):
        load_config(script.with_name("copy.py"))


@pytest.mark.parametrize("stages", ["all", "geometric(0.5)"])
def test_a_feature_method_of_a_users_own_is_trained_by_gradient(write_script, stages, tmp_path, capsys):
    script = write_script("mix.py", FEATURES, "ScalarMix()")
    status, _, err = call("train", script, "--set", f"plan.stages={stages}", "--workdir", "run", capsys=capsys)
    assert status == 0, err
    graft = topgraft.load(tmp_path / "run" / "graft")
    assert graft.manifest.training.variants == {"scalar_mix": "mix.py"}
    weights = np.asarray(graft.params["adapter"]["scalar_mix"]["weights"])
    assert np.abs(weights).max() > 0, "the mixture was trained"
    assert graft.manifest.training.metrics["test"]["accuracy"] > 0.8
    status, _, err = call("train", script, "--set", 'extra=[{"method":"bias"}]', capsys=capsys)
    assert status == 2
    assert "scalar_mix reads hidden states and stands alone" in err


@pytest.mark.parametrize("part", ["method", "kind"])
def test_an_unknown_method_or_head_names_the_file_that_defined_it_if_it_is_known(part, tiny, tmp_path, monkeypatch):
    import json

    from adapters.artefact.manifest import read_manifest
    from tests.grafts import make

    make(tmp_path / "graft", tiny)
    file = tmp_path / "graft" / "manifest.json"
    values = json.loads(file.read_text())
    (values["methods"][0] if part == "method" else values["head"])[part] = "mine"
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"{part}: 'mine' is unknown; .*TOPGRAFT_VARIANTS"):
        read_manifest(tmp_path / "graft")
    values["training"]["variants"] = {"mine": "mine.py"}
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"'mine' is no variant of Topgraft: mine\.py defined it"):
        read_manifest(tmp_path / "graft")
    (entry,) = FolderCatalogue(tmp_path).lives().values()
    assert (entry.version, "'mine' is no variant" in entry.lineage["error"]) == ("unknown", True), "it is not damaged"
    (tmp_path / "other.py").write_text("")
    monkeypatch.setenv(VARIANTS, str(tmp_path / "other.py"))
    with pytest.raises(InputError, match=r"; .*other\.py, which it names, defines no variant$"):
        read_manifest(tmp_path / "graft")
    (tmp_path / "other.py").write_text("1/0")
    with pytest.raises(InputError, match=r"^TOPGRAFT_VARIANTS: .*other\.py:1: ZeroDivisionError: .*; mend it, or"):
        read_manifest(tmp_path / "graft")


def test_the_file_of_a_users_own_head_is_noted_too(tmp_path):
    from adapters.artefact.write import own_names

    space: dict = {}
    script = tmp_path / "mine.py"
    script.write_text("from adapters.specs import Classification\nclass Mine(Classification, tag='mine'): pass\n")
    exec(compile(script.read_text(), str(script), "exec"), space)
    head = space["Mine"]()
    assert own_names((Lora(), head)) == {"mine": "mine.py"}
    del head.registry.variants["mine"], head.registry.files["mine"]


PLAIN = '''
from __future__ import annotations

from dataclasses import dataclass

from adapters.methods.method import SiteMethod
from adapters.specs import Classification, Lora


@dataclass(frozen=True)
class Doubled(SiteMethod, tag="doubled"):
    """Each output of the sites times a fixed factor; no parameters."""

    identity_at_start = False

    sites: tuple[str, ...] = ("mlp/up",)
    factor: float = 2.0
    blocks: str = ""

    def init(self, site, setting, rng):
        return {}

    def after(self, setting, leaves, x, y, kernel, call):
        return self.factor * y

    def merge(self, setting, leaves, kernel, bias):
        return self.factor * kernel, self.factor * bias


'''


def test_a_method_at_sites_may_have_no_parameters(write_script, tiny, tmp_path, monkeypatch, capsys):
    import jax.numpy as jnp

    from adapters.merging import merge
    from adapters.model import GraftModel
    from adapters.specs import Probe
    from serving.bank import Bank, Group

    script = write_script("doubled.py", PLAIN, "Doubled(factor=1.5)")
    status, _, err = call("train", script, "--set", "plan.stages=top(1)", "--workdir", "run", capsys=capsys)
    assert status == 0, err
    monkeypatch.setenv(VARIANTS, str(script))
    graft = topgraft.load(tmp_path / "run" / "graft")
    assert "adapter" not in graft.params, "files hold no empty trees"
    assert graft.manifest.training.metrics["test"]["accuracy"] > 0.8

    model, backbone = graft.model, tiny.params
    ids, mask = pad([np.asarray([2, 5, 6, 3], np.int32)], 8)
    inputs = {"ids": jnp.asarray(ids), "mask": jnp.asarray(mask)}
    features = model.features(backbone, {}, inputs)
    plain = GraftModel(tiny.network, (Probe(),), model.head, model.labels)
    assert np.abs(features - plain.features(backbone, {}, inputs)).max() > 1e-3, "it acts"
    folded = plain.features(merge(model, backbone, {}), {}, inputs)
    np.testing.assert_allclose(features, folded, rtol=1e-4, atol=1e-5)
    bank = Bank(tiny.network, Group(model.methods, slots=1), labels=len(model.labels))
    bank.write(1, bank.fit(model, graft.params).leaves)
    banked = bank.model.logits(backbone, bank.leaves, inputs, slots=np.asarray([1], np.int32))
    np.testing.assert_allclose(banked, model.logits(backbone, graft.params, inputs), rtol=1e-4, atol=2e-5)
