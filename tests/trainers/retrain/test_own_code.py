"""Fingerprints and a user's own variants: their settings count in full, and so does their code."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from adapters.heads.head import Head
from adapters.methods.method import Method
from backbone.errors import InputError
from tests.tiny import write_config
from trainers.config.load import load_config
from trainers.config.own import own_identity, own_in_graft
from trainers.freezing.schedule import Schedule
from trainers.retrain.fingerprint import OWN_SCHEME, SCHEME, Fingerprint, take

FEATURES = '''
from dataclasses import dataclass
from typing import ClassVar

from adapters.methods.method import FeatureMethod
from adapters.specs import Classification
from boundaries import last
from trainers.freezing.schedule import Schedule, Span


@dataclass(frozen=True)
class Last(FeatureMethod, tag="own_last"):
    """The state at the last boundary, times a factor."""

    fitted: ClassVar[bool] = True
    identity_at_start: ClassVar[bool] = False

    factor: float = 2.0

    def taps(self, encoder):
        return (last(encoder),)

    def width(self, encoder):
        return encoder.width

    def init(self, encoder, rng):
        return {}

    def features(self, encoder, params, states, mask, pool):
        return pool(self.factor * states[last(encoder)])


@dataclass(frozen=True)
class Mine(Classification, tag="own_head"):
    """The head of classification, by another name."""


@dataclass(frozen=True)
class Late(Schedule, tag="own_late"):
    """The last blocks."""

    count: int = 1

    def spans(self, shape):
        return (Span(shape.blocks - self.count, shape.total),)


'''


@pytest.fixture
def script(tmp_path, tiny_path, monkeypatch):
    """A config with an own method; its code needs a module beside it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "boundaries.py").write_text("def last(encoder):\n    return encoder.blocks\n")
    config = write_config(tmp_path / "config.py", tiny_path, tmp_path, adapter="Last()")
    (tmp_path / "own.py").write_text(FEATURES + config.read_text())
    yield tmp_path / "own.py"
    sys.modules.pop("boundaries", None)
    for base, tag in ((Method, "own_last"), (Head, "own_head"), (Schedule, "own_late")):
        base.registry.variants.pop(tag, None)
        base.registry.files.pop(tag, None)


def print_of(script, *overrides: str, before: Fingerprint | None = None) -> Fingerprint:
    return take(load_config(script, overrides), before).fingerprint


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "graft"),
    [
        ("own.py", "factor: float = 2.0", "factor: float = 3.0", True),
        ("own.py", "factor: float = 2.0", "factor: float = 2.0\n    other: int = 1", True),
        ("own.py", "pool(self.factor *", "pool(-self.factor *", True),
        ("boundaries.py", "return encoder.blocks", "return encoder.blocks - 1", True),
        ("config.py", "TrainConfig", "TrainConfig", False),  # written again, not changed; nor imported
    ],
)
def test_a_change_of_own_defaults_fields_or_code_is_another_training(file, old, new, graft, script):
    before = print_of(script)
    assert before.scheme == OWN_SCHEME
    assert print_of(script, before=before).same_training(before), "nothing changed"
    edit(script.with_name(file), old, new)
    now = print_of(script, before=before)
    assert now.same_training(before) is not graft
    assert (now.graft != before.graft, now.key != before.key, now.gate == before.gate) == (graft, graft, True)


def test_a_setting_at_its_default_means_the_same_whether_it_is_written_or_not(script):
    assert print_of(script, "adapter.factor=2").same_training(print_of(script))
    assert not print_of(script, "adapter.factor=2.5").same_training(print_of(script))


@pytest.mark.parametrize("override", ["head.kind=own_head", "plan.stages=own_late(1)"])
def test_own_heads_and_schedules_count_too_and_only_methods_and_heads_make_a_graft(override, script):
    overrides = ("adapter.method=probe", override)
    before = print_of(script, *overrides)
    assert before.scheme == OWN_SCHEME
    edit(script, '"""The last blocks."""', '"""The highest blocks."""')
    now = print_of(script, *overrides)
    assert now.config != before.config
    assert (now.graft != before.graft) is (override == "head.kind=own_head")


def test_a_field_that_topgraft_states_counts_unless_it_has_its_default(script):
    text = script.read_text().replace("from dataclasses", "from adapters.methods.lora import Lora\nfrom dataclasses", 1)
    low = "@dataclass(frozen=True)\nclass Low(Lora, tag='own_low'):\n    rank: int = 2\n\n\n"
    script.write_text(text.replace("def get_config", low + "def get_config").replace("adapter=Last()", "adapter=Low()"))
    (plain,), (other,) = (own_in_graft(load_config(script, overrides)) for overrides in ((), ("adapter.alpha=3",)))
    Method.registry.variants.pop("own_low"), Method.registry.files.pop("own_low")
    assert plain.values == {"method": "own_low", "rank": 2}, "a new default or field of Lora retrains nothing"
    assert other.values == {"method": "own_low", "rank": 2, "alpha": 3.0}


def test_variants_of_topgraft_count_as_before(script):
    """The script defines own variants, and uses none."""
    before = print_of(script, "adapter.method=probe")
    assert before.scheme == SCHEME
    edit(script, "factor: float = 2.0", "factor: float = 3.0")
    assert print_of(script, "adapter.method=probe") == before
    assert own_identity(load_config(script, ("adapter.method=probe",))) == {}


def test_a_fingerprint_that_a_former_version_stored_without_the_code_still_counts(script):
    taken = take(load_config(script), None)
    for scheme in (1, SCHEME):
        stored = taken.in_scheme(scheme)
        assert stored.scheme == scheme
        assert take(load_config(script), stored).gives(stored), "an upgrade retrains nothing"
        other = take(load_config(script, ("adapter.factor=4",)), stored)
        assert not other.gives(stored)


def test_a_variant_that_is_in_no_file_cannot_be_retrained(script):
    space: dict = {"__name__": "__main__"}
    text = script.read_text().replace("own_last", "typed_last")
    exec(compile(text, "<typed>", "exec"), space)
    try:
        with pytest.raises(
            InputError, match="method=typed_last is defined in <typed>, which is no file; define it in one"
        ):
            take(space["get_config"](), None)
        assert own_identity(space["get_config"]()), "a run that was interrupted knows its settings"
    finally:
        for base, tag in ((Method, "typed_last"), (Head, "own_head"), (Schedule, "own_late")):
            base.registry.variants.pop(tag, None)
            base.registry.files.pop(tag, None)


def test_a_retraining_sees_that_the_code_of_a_method_has_changed(script, place):
    place.config = script
    assert place.run("adapter.factor=1")["exit"] == 0
    assert place.run("adapter.factor=1")["action"] == "nothing"
    edit(script, "pool(self.factor *", "pool(-self.factor *")
    planned = place.run("adapter.factor=1", options=("--dry-run",))
    assert planned["action"] != "nothing"
    assert "method, head" in planned["reason"]


def test_an_interrupted_run_knows_its_own_variants(script):
    config = load_config(script)
    before = own_identity(config, config.plan.schedule)
    assert before == own_identity(load_config(script))
    edit(script, "pool(self.factor *", "pool(-self.factor *")
    assert own_identity(load_config(script)) != before
    assert own_identity(replace(config, plan=load_config(script, ("plan.stages=own_late(1)",)).plan).plan.schedule)
