"""Patterns must match something; specs refuse what makes no sense."""

from __future__ import annotations

import pytest

from adapters.model import GraftModel
from adapters.patterns import matched_sites, sites_of
from adapters.specs import IA3, Bottleneck, Classification, Ladder, Lora, LoraOverride, MultiLabel, Probe, block_range
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.network.sites import LINEAR
from tests.tiny import SPEC


def names(*patterns, blocks=""):
    return [site.full_name for site in matched_sites(patterns, sites_of(SPEC, LINEAR, blocks))]


def test_what_patterns_match():
    assert names("attention/query") == ["0/attention/query", "1/attention/query", "2/attention/query"]
    assert names("mlp/*", blocks="-1:") == ["2/mlp/up", "2/mlp/down"]
    assert names("1/attention/[kv]*") == ["1/attention/key", "1/attention/value"]
    assert len(names("*/*/*")) == len(names("*/*")) == 18
    assert names("attention/query", "attention/*", blocks=":1")[0] == "0/attention/query", "each site once"


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("attention/qeury", "attention/query"),
        ("query", "attention/query"),
        ("7/mlp/up", "mlp/up"),
        ("mlp", "mlp/up"),
        ("*", "mlp"),
    ],
)
def test_a_pattern_that_matches_nothing_lists_the_nearest(pattern, near):
    with pytest.raises(InputError, match=rf"the pattern .* matches no site; .*{near}"):
        GraftModel(Network(SPEC), (Lora(sites=(pattern,)),), Classification(), ("a",))


def test_every_field_of_patterns_is_strict():
    for spec, field in (
        (IA3(scale_inputs=("mlp/dwon",)), "scale_inputs"),
        (IA3(scale_outputs=("nothing",)), "scale_outputs"),
        (Lora(overrides=(LoraOverride("mlp/up", rank=2),)), "overrides"),
    ):
        with pytest.raises(InputError, match=field):
            GraftModel(Network(SPEC), (spec,), Classification(), ("a",))


@pytest.mark.parametrize(
    ("blocks", "chosen"), [("", [0, 1, 2, 3]), ("2:", [2, 3]), (":1", [0]), ("-1:", [3]), ("1:3", [1, 2])]
)
def test_block_ranges(blocks, chosen):
    assert list(block_range(blocks, 4)) == chosen


@pytest.mark.parametrize("blocks", ["9:", "2:1", "x", "1", "::2", ":"])
def test_bad_block_ranges(blocks):
    if blocks == ":":
        assert list(block_range(blocks, 4)) == [0, 1, 2, 3]
        return
    with pytest.raises(InputError, match="blocks"):
        block_range(blocks, 4)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Lora(rank=0), "rank"),
        (lambda: Lora(rank=-1), "rank"),
        (lambda: Lora(alpha=0.0), "alpha"),
        (lambda: Lora(alpha=float("nan")), "alpha"),
        (lambda: Lora(dropout=1.0), "dropout"),
        (lambda: Lora(sites=()), "sites"),
        (lambda: Lora(blocks="top"), "blocks"),
        (lambda: LoraOverride("x"), "neither rank nor alpha"),
        (lambda: LoraOverride("x", rank=0), "rank"),
        (lambda: Bottleneck(width=0), "width"),
        (lambda: IA3(scale_outputs=(), scale_inputs=()), "scale_outputs"),
        (lambda: Ladder(reduction=0), "reduction"),
        (lambda: MultiLabel(threshold=0.0), "threshold"),
        (lambda: Classification(dropout=1.5), "dropout"),
    ],
)
def test_specs_check_themselves(make, field):
    with pytest.raises(InputError, match=field):
        make()


def test_specs_that_do_not_fit_the_backbone():
    for spec, field in (
        (Probe(boundaries=(9,)), "boundaries"),
        (Ladder(reduction=16), "reduction"),
        (Lora(blocks="5:"), "blocks"),
    ):
        with pytest.raises(InputError, match=field):
            GraftModel(Network(SPEC), (spec,), Classification(), ("a",)).abstract()
    with pytest.raises(InputError, match="labels"):
        GraftModel(Network(SPEC), (Lora(),), Classification(), ("a", "a"))
