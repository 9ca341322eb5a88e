"""The methods that choose train rows: each against its definition, written by hand on few rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import pytest

from backbone.errors import InputError
from backbone.variants.registered import variants
from trainers.config import TrainConfig
from trainers.config.load import override
from trainers.curation.facts import forgetting_of
from trainers.curation.near import near_duplicates
from trainers.subsets.facility import FacilityLocation
from trainers.subsets.forgetting import Forgetting
from trainers.subsets.kcentre import KCentre
from trainers.subsets.margin import Margin
from trainers.subsets.random import RandomSubset
from trainers.subsets.subset import Subset, quotas

METHODS = variants(Subset)


def unit(states: np.ndarray) -> np.ndarray:
    return (states / np.linalg.norm(states, axis=1, keepdims=True)).astype(np.float32)


@dataclass
class Facts:
    """Facts of forty rows, drawn."""

    names: tuple[str, ...] = ("a", "b", "c")
    keys: list[bytes] = field(default_factory=lambda: [b"row %d" % i for i in range(40)])
    states: np.ndarray = field(default_factory=lambda: unit(np.random.default_rng(0).normal(size=(40, 5))))
    probabilities: np.ndarray = field(
        default_factory=lambda: np.random.default_rng(1).dirichlet((1, 1, 1), 40).astype(np.float32)
    )
    forgetting: np.ndarray = field(default_factory=lambda: np.random.default_rng(2).integers(-1, 5, 40))


MEMBERS = np.arange(3, 33)  # a group that is not all rows


@pytest.mark.parametrize("tag", METHODS)
def test_every_method_gives_distinct_members_with_a_reason_each_and_the_same_ones_again(tag):
    method = METHODS[tag].example()
    chosen = method.choose(Facts(), MEMBERS, 7)
    assert len(set(chosen.numbers.tolist())) == len(chosen.reasons) == 7
    assert set(chosen.numbers.tolist()) <= set(MEMBERS.tolist())
    assert all(chosen.reasons)
    assert method.choose(Facts(), MEMBERS, 7).numbers.tolist() == chosen.numbers.tolist()
    assert sorted(method.choose(Facts(), MEMBERS, 30).numbers.tolist()) == MEMBERS.tolist()


@pytest.mark.parametrize("tag", METHODS)
def test_a_subset_is_read_from_a_config_and_a_whole_one_is_no_part_of_it(tag):
    config = override(TrainConfig(), [f"subset.method={tag}", "subset.share=0.2", "subset.balance=equal"])
    assert config.subset == METHODS[tag](share=0.2, balance="equal")
    assert not config.subset.is_whole
    assert TrainConfig().subset.is_whole


@pytest.mark.parametrize("tag", ["random", "kcentre", "facility", "margin"])
def test_a_method_that_reads_no_seed_chooses_the_same_rows_by_every_seed(tag):
    one, other = (METHODS[tag](seed=seed).choose(Facts(), MEMBERS, 7).numbers.tolist() for seed in (0, 1))
    assert (one != other) == METHODS[tag].reads_seed


def test_a_random_row_stays_chosen_when_others_join():
    facts = Facts()
    few = set(RandomSubset().choose(facts, np.arange(20), 10).numbers.tolist())
    many = set(RandomSubset().choose(facts, np.arange(40), 20).numbers.tolist())
    assert len(few & many) >= 6, "no row moves but for others that come before it"
    assert RandomSubset(seed=1).choose(facts, np.arange(20), 10).numbers.tolist() != sorted(few)


def test_k_centre_is_farthest_first_and_within_twice_the_best_radius():
    facts = Facts()
    members = np.arange(12)
    order = KCentre().choose(facts, members, 3).numbers

    def gaps(chosen) -> np.ndarray:
        return np.linalg.norm(facts.states[members][:, None] - facts.states[list(chosen)][None], axis=-1).min(axis=1)

    for count in (1, 2):
        assert order[count] == members[gaps(order[:count]).argmax()]
    best = min(gaps(chosen).max() for chosen in combinations(range(12), 3))
    assert gaps(order).max() <= 2 * best + 1e-6


def test_facility_location_is_the_greedy_choice_and_close_to_the_best():
    facts = Facts()
    members = np.arange(12)
    similar = np.maximum(facts.states[members] @ facts.states[members].T, 0).astype(np.float64)

    def value(chosen) -> float:
        return float(similar[:, list(chosen)].max(axis=1).sum())

    greedy: list[int] = []
    for _ in range(4):
        greedy.append(max(set(range(12)) - set(greedy), key=lambda row: value([*greedy, row])))
    chosen = FacilityLocation().choose(facts, members, 4)
    assert chosen.numbers.tolist() == greedy
    best = max(value(rows) for rows in combinations(range(12), 4))
    assert value(greedy) >= (1 - 1 / np.e) * best
    served = [int(why.split()[2]) for why in chosen.reasons]
    assert sum(served) == 12, "each row has one that stands for it"


def test_margin_takes_the_least_sure_rows_and_reads_no_label():
    facts = Facts()
    high = np.sort(facts.probabilities, axis=1)
    expected = np.argsort(high[:, -1] - high[:, -2], kind="stable")[:6]
    assert Margin().choose(facts, np.arange(40), 6).numbers.tolist() == expected.tolist()


def test_forgetting_takes_what_was_never_learned_then_the_most_forgotten():
    facts = Facts(forgetting=np.array([0, 3, -1, 1, 3, -1] + [0] * 34))
    chosen = Forgetting().choose(facts, np.arange(40), 5)
    assert chosen.numbers.tolist() == [2, 5, 1, 4, 3]
    assert chosen.reasons[0] == "never learned"
    assert chosen.reasons[2] == "forgotten 3 times"


def test_a_row_with_a_wrong_label_is_forgotten_more_often_than_the_others():
    draw = np.random.default_rng(3)
    middles = draw.normal(size=(3, 8))
    classes = np.arange(150) % 3
    states = unit(middles[classes] + 0.1 * draw.normal(size=(150, 8)))
    labels = classes.copy()
    labels[:6] = (labels[:6] + 1) % 3
    times = forgetting_of(states, labels, 3, seed=0)
    assert ((times[:6] < 0) | (times[:6] > np.median(times[6:]))).all()
    assert (times[6:] >= 0).all()


def test_near_duplicates_are_those_of_every_pair_and_the_first_stays(monkeypatch):
    draw = np.random.default_rng(4)
    states = unit(draw.normal(size=(30, 6)))
    states[[7, 19, 28]] = unit(states[[2, 2, 20]] + 0.01 * draw.normal(size=(3, 6)))
    monkeypatch.setattr("trainers.curation.near.BLOCK", 4)
    near = near_duplicates(states, np.arange(30), 0.99)
    assert [(one.row, one.of) for one in near] == [(7, 2), (19, 2), (28, 20)]
    assert all(one.cosine == pytest.approx(float(states[one.row] @ states[one.of]), abs=1e-6) for one in near)
    assert not near_duplicates(states, np.arange(7), 0.99)


def test_quotas_keep_shares_or_are_equal_and_every_label_stays():
    assert quotas([100, 10, 1], [100, 10, 1], 20, "share") == [17, 2, 1]
    assert quotas([100, 10, 1], [100, 10, 1], 30, "equal") == [19, 10, 1]
    assert quotas([5, 5], [1, 5], 5, "share") == [1, 4], "near-duplicates left one row of the first"
    assert quotas([5, 5], [5, 5], 99, "share") == [5, 5]
    with pytest.raises(InputError, match="2 rows are fewer than the 3 labels"):
        quotas([9, 9, 9], [9, 9, 9], 2, "share")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("subset.share=0", r"subset.share: must lie in \(0, 1\], got 0"),
        ("subset.near=1.5", r"subset.near: a cosine from 0 to 1, got 1.5"),
        ("subset.seed=-1", r"subset.seed: must lie in"),
        ("subset.method=kcenter", r"subset.method: 'kcenter' is unknown; nearest: kcentre"),
        ("subset.balance=none", r"subset.balance: 'none' is not one of share, equal"),
    ],
)
def test_bad_settings_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        override(TrainConfig(), [setting])


def test_a_method_that_reads_labels_needs_one_label_a_row():
    config = override(TrainConfig(), ["head.kind=multi_label", "subset.method=kcentre", "subset.share=0.5"])
    for tag, method in METHODS.items():
        if method.reads_labels:
            with pytest.raises(InputError, match=f"subset.method: {tag} reads one label a row"):
                replace(config, subset=method(share=0.5))
