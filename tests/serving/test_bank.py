"""The bank: what fits a slot, what is refused, and that a slot holds its last occupant and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import (
    IA3,
    SSF,
    Bias,
    Bottleneck,
    Classification,
    Dora,
    Lora,
    LoraOverride,
    MultiLabel,
    Norm,
    Prefix,
    Probe,
    Regression,
    Router,
    Vera,
)
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.trees import flatten
from serving.bank import Bank, Envelope, Group, lowest_block, place_in
from serving.live.catalogue import FolderCatalogue
from serving.server.envelopes import default_envelope
from serving.server.settings import Settings
from tests.grafts import make, nonzero
from tests.tiny import SPEC

NETWORK = Network(SPEC)


def model(*methods, head=None, labels=3) -> GraftModel:
    return GraftModel(NETWORK, methods, head or Classification(), tuple(f"l{i}" for i in range(labels)))


def graft(backbone, *methods, head=None, labels=3, seed=0) -> Graft:
    made = model(*methods, head=head, labels=labels)
    return Graft(made, nonzero(made, seed), backbone, 48)


@pytest.fixture(scope="module")
def bank() -> Bank:
    return Bank(NETWORK, Group((Lora(rank=4, alpha=3.0, sites=("attention/*",)),), slots=2), labels=5)


def test_padding_and_folding_of_a_lora(bank):
    """Rank 2 with scale 8 in a bank of rank 4 with scale 3/4: columns of zeros, B times 8 / (3/4)."""
    small = model(Lora(rank=2, alpha=16.0))
    params = nonzero(small)
    slot = flatten(bank.fit(small, params).leaves)
    own = flatten(params)
    a, b = slot["adapter.lora.1.attention/query.a"], slot["adapter.lora.1.attention/query.b"]
    np.testing.assert_array_equal(a[:, :2], own["adapter.lora.1.attention/query.a"])
    assert not a[:, 2:].any()
    np.testing.assert_allclose(b[:2] * 0.75, own["adapter.lora.1.attention/query.b"] * 8.0, rtol=1e-6)
    assert not b[2:].any()
    assert not slot["adapter.lora.1.attention/key.b"].any(), "a site it does not adapt is the identity"
    assert slot["head.kernel"].shape == (32, 5)
    assert not slot["head.kernel"][:, 3:].any()


@pytest.mark.parametrize(
    ("made", "limit"),
    [
        (lambda: model(Lora(rank=5)), r"rank 5 exceeds the bank's 4"),
        (lambda: model(Lora(rank=4, overrides=(LoraOverride("attention/query", rank=6),))), r"rank 6 exceeds"),
        (lambda: model(Lora(rank=2, sites=("mlp/up",))), r"adapts 0/mlp/up, .*outside the group's sites"),
        (lambda: model(Lora(rank=2), labels=6), r"6 labels exceed the envelope's 5"),
        (lambda: model(Lora(rank=2), head=Classification(pooling="first")), r"pooling first is not the group's mean"),
        (lambda: model(IA3()), r"its methods are ia3, the group's lora"),
        (lambda: model(Lora(rank=2), IA3()), r"its methods are lora\+ia3"),
        (lambda: model(Probe(boundaries=())), r"its methods are probe"),
    ],
)
def test_a_graft_outside_is_refused_with_the_limit(bank, made, limit):
    outside = made()
    with pytest.raises(InputError, match=limit):
        bank.fit(outside, nonzero(outside))
    with pytest.raises(InputError, match=r"task: outside the envelope.*--envelope"):
        place_in([bank], outside, nonzero(outside), "task")


def test_a_bottleneck_of_another_kind_is_refused():
    bank = Bank(NETWORK, Group((Bottleneck(width=4),), slots=1), labels=3)
    for spec, limit in (
        (Bottleneck(width=5), "width 5 exceeds the bank's 4"),
        (Bottleneck(width=4, activation="gelu"), "activation gelu is not the bank's relu"),
    ):
        with pytest.raises(InputError, match=limit):
            bank.fit(model(spec), nonzero(model(spec)))


@dataclass(frozen=True)
class Renamed(Lora):
    """A LoRA with leaves of other names, of which it states nothing."""

    method = "lora"

    def init(self, site, setting, rng):
        return {f"{name}1": leaf for name, leaf in super().init(site, setting, rng).items()}


class Stated(Renamed):
    rank_axes = {"a1": 1, "b1": 0}  # noqa: RUF012 - a class variable
    scaled = "b1"


class Halved(Stated):
    rank_axes = {"a1": 1}  # noqa: RUF012 - a class variable


class Broken(Stated):
    def bank_leaves(self, setting, leaves, shared):
        return {"a1": leaves["a"]}

    def widest(self, other, encoder):
        return self.no_such_setting


def test_leaves_of_any_name_are_padded_as_the_method_states():
    bank = Bank(NETWORK, Group((Stated(rank=4, alpha=3.0),), slots=1), labels=3)
    slot = flatten(bank.fit(model(Stated(rank=2)), nonzero(model(Stated(rank=2)))).leaves)
    assert slot["adapter.lora.1.attention/query.a1"].shape == (32, 4)
    for method, fault in (
        (Renamed, r"no leaf a, only a1, b1; state the leaves of Renamed in rank_axes and scaled"),
        (Halved, r"the leaf b1 is \(2, 32\), the bank's is \(4, 32\); bank_leaves must make it so"),
        (Broken, r"bank_leaves of the leaves a1, b1: KeyError: 'a'"),
    ):
        narrow = model(method(rank=2))
        with pytest.raises(InputError, match=rf"^lora at 0/attention/query: {fault}"):
            bank.fit(narrow, nonzero(narrow))
    with pytest.raises(InputError, match=r"^lora: widest: AttributeError: .*no_such_setting.*; mend Broken"):
        Envelope.around([model(Broken(rank=1)), model(Broken(rank=2))])


@dataclass(frozen=True)
class Raised(Lora):
    """A LoRA with a setting that no leaf holds."""

    method = "lora"
    power: float = 1.0


def test_grafts_whose_settings_differ_beyond_the_leaves_share_no_bank():
    first, second = model(Raised(power=1.0)), model(Raised(rank=4, power=2.0))
    assert len(Envelope.around([first, second]).groups) == 2
    bank = Bank(NETWORK, Group(first.methods, slots=1), labels=3)
    with pytest.raises(InputError, match=r"^lora: power 2\.0 is not the bank's 1\.0"):
        bank.fit(second, nonzero(second))


def test_a_write_replaces_the_whole_slot_and_compiles_nothing(bank):
    wide, narrow = model(Lora(rank=4, sites=("attention/*",)), labels=5), model(Lora(rank=1, blocks="2:"), labels=2)
    fitted = [bank.fit(m, nonzero(m, seed)) for seed, m in enumerate((wide, narrow))]
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    for slot, one in ((1, fitted[0]), (2, fitted[0]), (1, fitted[1]), (2, fitted[1]), (2, fitted[0])):
        bank.write(slot, one.leaves)
    jax.block_until_ready(bank.leaves)
    assert not compiled
    for path, leaf in flatten(bank.leaves).items():
        stacked = np.asarray(leaf)
        np.testing.assert_array_equal(stacked[1], flatten(fitted[1].leaves)[path])
        np.testing.assert_array_equal(stacked[2], flatten(fitted[0].leaves)[path])
    with pytest.raises(ValueError, match="slot 0"):
        bank.write(0, fitted[0].leaves)


def test_slot_0_is_no_adapter(tiny, bank):
    ids = np.arange(16, dtype=np.int32).reshape(2, 8) + 5
    inputs = {"ids": ids, "mask": np.ones((2, 8), bool)}
    plain = GraftModel(NETWORK, (), Classification(), ("x",)).features(tiny.params, {}, inputs)
    found = bank.model.features(tiny.params, bank.leaves["adapter"], inputs, slots=np.zeros(2, np.int32))
    np.testing.assert_allclose(found, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "pooling"),
    [
        (Lora(rank=2), "attention"),
        (Dora(rank=2), "mean"),
        (Vera(rank=4), "mean"),
        (SSF(), "mean"),
        (Bias(), "mean"),
        (Norm(), "mean"),
        (Prefix(length=3), "mean"),
        (Router(experts=3, top=2, rank=2), "first"),
    ],
    ids=lambda value: getattr(value, "method", value),
)
def test_rows_of_mixed_slots_get_the_logits_of_their_own_graft(tiny, method, pooling):
    made = model(method, head=Classification(pooling=pooling))
    (group,) = Envelope.around([made], slots=2).groups
    bank = Bank(NETWORK, group, labels=5)
    grafts = [nonzero(made, seed) for seed in (1, 2)]
    for slot, params in enumerate(grafts, 1):
        bank.write(slot, bank.fit(made, params).leaves)
    ids = np.arange(32, dtype=np.int32).reshape(4, 8) + 5
    inputs = {"ids": ids, "mask": np.arange(8)[None] < np.array([[8], [5], [7], [4]])}
    slots = np.array([2, 1, 0, 2], np.int32)
    found = bank.model.logits(tiny.params, bank.leaves, inputs, slots=slots)
    for row in (0, 1, 3):
        wanted = made.logits(tiny.params, grafts[slots[row] - 1], inputs)[row]
        np.testing.assert_allclose(found[row, :3], wanted, atol=2e-5)
        assert not found[row, 3:].any()


def test_a_live_graft_that_no_bank_holds_does_not_stop_the_server(tiny, tmp_path):
    make(tmp_path / "number", tiny, Lora(rank=2), Regression(center=0.0, spread=1.0))
    make(tmp_path / "good", tiny, Lora(rank=3))
    settings = Settings(backbone="", grafts=str(tmp_path))
    (group,) = default_envelope(settings, tiny, FolderCatalogue(tmp_path)).groups
    assert group.methods == (Lora(rank=3),)
    _, made, params = make(tmp_path / "again", tiny, head=Regression(center=0.0, spread=1.0))
    with pytest.raises(InputError, match=r"score: head: a bank holds .* is regression with pair=none"):
        place_in([], made, params, "score")


def test_the_narrowest_envelope_around_grafts():
    models = [
        model(Lora(rank=2)),
        model(Lora(rank=8, sites=("mlp/up",)), labels=200),
        model(Lora(rank=4, blocks="2:")),
        model(Lora(rank=4, dropout=0.1), head=MultiLabel(pooling="first")),
        model(Bottleneck(width=3)),
        model(Bottleneck(width=9)),
        model(Bottleneck(width=4, placement="parallel")),
        model(IA3()),
        model(IA3(scale_inputs=())),
    ]
    envelope = Envelope.around(models, slots=3)
    assert envelope.labels == 200
    kinds = [(group.methods[0].method, group.pooling) for group in envelope.groups]
    assert kinds == [
        ("lora", "mean"), ("lora", "mean"), ("lora", "first"), ("bottleneck", "mean"), ("bottleneck", "mean"),
        ("ia3", "mean"), ("ia3", "mean"),
    ]  # fmt: skip
    assert envelope.groups[0].methods[0].rank == 8
    assert envelope.groups[3].methods[0].width == 9
    banks = [Bank(NETWORK, group, envelope.labels) for group in envelope.groups]
    assert [bank.start for bank in banks] == [0, 2, 0, 0, 0, 0, 0]
    for one in models:
        place, _ = place_in(banks, one, nonzero(one), "t")
        assert lowest_block(one) >= banks[place].start


def test_an_envelope_is_plain_data():
    from backbone.records import decode, encode

    envelope = Envelope((Group((Lora(rank=16, dropout=0.5),), slots=4),), labels=9)
    assert envelope.groups[0].methods[0].dropout == 0
    assert decode(Envelope, encode(envelope)) == envelope
    for bad in (lambda: Envelope(()), lambda: Group((), slots=0), lambda: Envelope(envelope.groups, labels=0)):
        with pytest.raises(InputError):
            bad()
