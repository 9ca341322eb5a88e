"""Combined LoRA grafts against the formulas, on whole updates in numpy."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

import topgraft
from adapters.combination import Combination
from adapters.mixing import combine
from adapters.specs import IA3, Lora, LoraOverride
from backbone.errors import InputError
from tests.grafts import make
from tests.tiny import as_json, make_tiny_backbone

WEIGHTS = (0.7, -0.5)
FIRST = Lora(rank=3, alpha=5.0, overrides=(LoraOverride("attention/value", alpha=2.0),))


@pytest.fixture(scope="module")
def grafts(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grafts")
    make(folder / "one", tiny, FIRST, seed=1)
    make(folder / "two", tiny, Lora(rank=3, scaling="rank_stabilised", blocks="1:"), seed=2)
    make(folder / "three", tiny, Lora(rank=2), seed=3)
    return folder


def factors(path, tiny):
    """(scale, A, B) by block and site."""
    graft = topgraft.load(path, tiny)
    spec, found = graft.model.methods[0], {}
    for block, sites in graft.params["adapter"]["lora"].items():
        for name, leaves in sites.items():
            a, b = (np.asarray(leaves[n], np.float64) for n in "ab")
            override = next((o for o in spec.overrides if o.sites in (name, f"{block}/{name}")), None)
            alpha = (override and override.alpha) or spec.alpha
            rank = a.shape[1]
            found[f"{block}/{name}"] = (alpha / (sqrt(rank) if spec.scaling == "rank_stabilised" else rank), a, b)
    return found


def updates(path, tiny):
    return {site: s * a @ b for site, (s, a, b) in factors(path, tiny).items()}


def whole(grafts, tiny):
    """sum w D by site; a graft without the site adds nothing."""
    one, two = updates(grafts / "one", tiny), updates(grafts / "two", tiny)
    assert set(two) < set(one)
    return {site: WEIGHTS[0] * one[site] + (WEIGHTS[1] * two[site] if site in two else 0) for site in one}


def test_cat_is_the_weighted_sum_with_the_head_of_the_named_graft(grafts, tiny, tmp_path):
    done = combine(
        [grafts / "one", grafts / "two"],
        tmp_path / "cat",
        Combination(weights=WEIGHTS, head_from=str(grafts / "two")),
        backbone=tiny.path,
    )
    found, wanted = updates(tmp_path / "cat", tiny), whole(grafts, tiny)
    assert set(found) == set(wanted)
    for site, delta in wanted.items():
        np.testing.assert_allclose(found[site], delta, atol=1e-5)
    assert done.error < 1e-6
    assert (done.ranks["0/attention/query"], done.ranks["1/attention/query"]) == (3, 6)
    graft, other = topgraft.load(tmp_path / "cat", tiny), topgraft.load(grafts / "two", tiny)
    np.testing.assert_array_equal(graft.params["head"]["kernel"], other.params["head"]["kernel"])
    assert done.head_from == other.manifest.content_id


@pytest.mark.parametrize("rank", [0, 2, 32])
def test_svd_is_the_nearest_update_of_its_rank(rank, grafts, tiny, tmp_path):
    paths = [grafts / "one", grafts / "two"]
    done = combine(paths, tmp_path / "svd", Combination(how="svd", weights=WEIGHTS, rank=rank), backbone=tiny.path)
    found, wanted = updates(tmp_path / "svd", tiny), whole(grafts, tiny)
    lost = size = 0.0
    for site, delta in wanted.items():
        values = np.linalg.svd(delta, compute_uv=False)
        least = np.square(values[rank or 3 :]).sum()
        assert np.square(found[site] - delta).sum() == pytest.approx(least, abs=1e-6)
        lost, size = lost + least, size + np.square(values).sum()
    assert done.error == pytest.approx(sqrt(lost / size), abs=1e-6)


def test_linear_adds_the_factors(grafts, tiny, tmp_path):
    one, two = factors(grafts / "one", tiny), factors(grafts / "two", tiny)
    linear = Combination(how="linear", weights=WEIGHTS)
    done = combine([grafts / "one", grafts / "two"], tmp_path / "l", linear, backbone=tiny.path)
    found = updates(tmp_path / "l", tiny)
    for site, (s, a, b) in one.items():
        left, right = sqrt(0.7 * s) * a, sqrt(0.7 * s) * b
        if site in two:
            t, c, d = two[site]
            left, right = left - sqrt(0.5 * t) * c, right + sqrt(0.5 * t) * d
        np.testing.assert_allclose(found[site], left @ right, atol=1e-5)
    assert done.error > 0.1, "the cross terms"
    with pytest.raises(InputError, match=r"--how linear: the grafts have ranks \[2, 3\]"):
        combine([grafts / "one", grafts / "three"], tmp_path / "m", Combination(how="linear"), backbone=tiny.path)


def test_ties_entry_by_entry(grafts, tiny, tmp_path):
    """Density 0.3, full rank, so that nothing is lost after it."""
    done = combine(
        [grafts / "one", grafts / "two", grafts / "three"],
        tmp_path / "ties",
        Combination(how="ties", weights=(1.0, 0.5, 2.0), rank=32, density=0.3),
        backbone=tiny.path,
    )
    parts = [updates(grafts / name, tiny) for name in ("one", "two", "three")]
    found = updates(tmp_path / "ties", tiny)
    for site in ("0/attention/query", "2/attention/value"):
        tasks = [(w, part[site]) for w, part in zip((1.0, 0.5, 2.0), parts, strict=True) if site in part]
        for i, j in ((i, j) for i in range(32) for j in range(32)):
            left = []
            for weight, task in tasks:
                least = np.sort(np.abs(task).ravel())[-int(0.3 * task.size)]
                left.append((weight, task[i, j] if abs(task[i, j]) >= least else 0.0))
            positive = sum(x for _, x in left) >= 0  # before the weights
            agreeing = [w * x for w, x in left if x and (x > 0) == positive]
            assert found[site][i, j] == pytest.approx(np.mean(agreeing) if agreeing else 0, abs=1e-5)
    assert done.error < 1e-6


def test_the_verb_and_what_it_refuses(grafts, tiny, tmp_path, capsys):
    one, two = str(grafts / "one"), str(grafts / "two")
    on = ("--backbone", str(tiny.path), "--json", "--out")
    assert topgraft.main(["combine", one, two, "--how", "svd", "--weights", "0.5,0.5", *on, "new"]) == 0
    done = as_json(capsys.readouterr().out)
    assert done["weights"] == [0.5, 0.5]
    assert topgraft.load("new", tiny).predict(["ban bas"])
    make(tmp_path / "ia3", tiny, IA3())
    make_tiny_backbone(tmp_path / "other", seed=5)
    for arguments, message in (
        ((one,), "at least two grafts are needed"),
        ((one, two, "--weights", "1"), "--weights: 1 for 2 grafts"),
        ((one, two, "--weights", "1,x"), "--weights: must be a finite number, got 'x'"),
        ((one, two, "--weights", "1,nan"), "--weights: must be a finite number, got 'nan'"),
        ((one, two, "--weights", "1,0"), "--weights: none may be zero, got 1.0, 0.0"),
        ((one, two, "--rank", "3"), "--rank: a positive number, for svd and ties only"),
        ((one, two, "--how", "ties", "--density", "0"), "--density: must lie in (0, 1]"),
        ((one, two, "--head-from", "elsewhere"), "--head-from: elsewhere is none of the combined grafts"),
        ((one, str(tmp_path / "ia3")), "only grafts of one lora have updates that can be added; this one has ia3"),
    ):
        assert topgraft.main(["combine", *arguments, *on, "no"]) == 2
        assert message in capsys.readouterr().err
    assert topgraft.main(["combine", one, two, "--backbone", str(tmp_path / "other"), "--out", "no"]) == 2
    assert "grafted on another backbone" in capsys.readouterr().err
