"""Many grafts on one backbone: stacked on a slot axis [S, ...], so that one program serves them all.

    envelope = Envelope((Group((Lora(rank=16),), slots=32),))
    bank = Bank(backbone.network, envelope.groups[0], envelope.labels)
    bank.write(3, bank.fit(model, params).leaves)        # never recompiles, costs the same for every slot
    logits = bank.model.logits(backbone.params, bank.leaves, inputs, slots=slots)   # slots int32 [B]

The envelope is declared at start and fixes every shape. A group is one bank and one program. It holds grafts of one
combination of methods and one pooling, up to the widest that the group's methods describe. A narrower graft is padded
so that it computes the same: zero columns of a LoRA, identity leaves at sites that it does not adapt, zero columns of
its head. The scale of a LoRA is folded into its leaves, so that ranks and alphas share the program. The kind of a head
matters on the host only. Slot 0 is no adapter and belongs to nobody. A write replaces every leaf of the slot, so that
nothing of a former graft survives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from adapters.heads.head import Head, kinds_for
from adapters.heads.pooling import Pooling
from adapters.methods.method import Method, SiteMethod, at_inference
from adapters.model import GraftModel
from adapters.patterns import leaves_at
from adapters.specs import Classification
from adapters.suffix import SUFFIX, SuffixBlock
from backbone.errors import InputError
from backbone.network.dropping import Drop
from backbone.network.encoder import Network
from backbone.trees import Params, flatten, map_leaves


@dataclass(frozen=True)
class Group:
    """Grafts that share a bank and a program."""

    methods: tuple[Method, ...]  # methods of the widest graft it takes: rank, width, sites, blocks
    pooling: Pooling = "mean"  # pooling of its heads
    slots: int = 32  # grafts resident at a time; 1 of a pruned suffix, whose kernels all rows of a batch share
    suffix: tuple[SuffixBlock, ...] = ()  # heads and units of the blocks that belong to its graft
    drops: tuple[Drop, ...] = ()  # boundaries at which its grafts drop tokens

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise InputError(f"slots: must be at least 1, got {self.slots}")
        if self.suffix:
            object.__setattr__(self, "slots", 1)
        object.__setattr__(self, "methods", tuple(at_inference(method) for method in self.methods))

    def title(self) -> str:
        """Returns a title for messages: `lora+ia3, mean`."""
        return f"{'+'.join(spec.method for spec in self.methods) or 'head only'}, {self.pooling}{self._pruned}"

    @property
    def _pruned(self) -> str:
        pruned = f", pruned above {self.suffix[0].block}" if self.suffix else ""
        return pruned + "".join(f", {drop.keep} tokens from {drop.boundary} on" for drop in self.drops)


@dataclass(frozen=True)
class Envelope:
    """Limits of the grafts that a runtime can hold, declared at start; a graft outside is refused."""

    groups: tuple[Group, ...]  # banks; a graft joins the first that takes it
    labels: int = 128  # labels of the widest head
    scopes: tuple[int, ...] = (-1,)  # boundaries that out-of-scope scores may be measured at; -1: the last
    exits: tuple[int, ...] = ()  # boundaries at which a batch may be split; a graft with exits elsewhere uses none

    def __post_init__(self) -> None:
        if list(self.exits) != sorted(set(self.exits)) or min(self.exits, default=1) < 1:
            raise InputError(f"exits: boundaries above 0, ascending, got {self.exits}")
        if not self.groups:
            raise InputError("groups: at least one is needed")
        if self.labels < 1:
            raise InputError(f"labels: must be at least 1, got {self.labels}")

    def scope_boundaries(self, blocks: int) -> tuple[int, ...]:
        """Returns `scopes` counted from 0, for a backbone of so many blocks; raises InputError for one it has not."""
        if wrong := [scope for scope in self.scopes if not -blocks - 1 <= scope <= blocks]:
            raise InputError(f"scopes: {wrong[0]} is not in 0..{blocks} (or negative from the end)")
        return tuple(sorted({scope % (blocks + 1) for scope in self.scopes}))

    @classmethod
    def around(
        cls,
        models: Iterable[GraftModel],
        *,
        slots: int = 32,
        labels: int = 128,
        scopes: Iterable[int] = (-1,),
        exits: Iterable[int] = (),
    ) -> Envelope:
        """Returns the narrowest envelope that holds these grafts.

        Grafts share a group where their methods allow it and their lowest adapted block is the same. A graft in the top
        blocks so keeps its long shared prefix. A pruned graft has a group of its own.
        """
        groups: list[Group] = []
        for model in models:
            labels = max(labels, len(model.labels))
            new = Group(model.methods, _pooling(model.head), slots, model.suffix, model.drops)
            for place, group in enumerate(groups):
                joined = _joined(group, new, model.network)
                if joined is not None:
                    groups[place] = joined
                    break
            else:
                groups.append(new)
        return cls(tuple(groups), labels, tuple(scopes), tuple(sorted(set(exits))))


def _joined(group: Group, new: Group, network: Network) -> Group | None:
    if group.suffix or new.suffix or group.drops != new.drops:
        return None
    kinds = [[method.tag for method in g.methods] for g in (group, new)]
    if kinds[0] != kinds[1] or group.pooling != new.pooling or _start(group, network) != _start(new, network):
        return None
    wide = [_widest(first, second, network) for first, second in zip(group.methods, new.methods, strict=True)]
    return None if None in wide else replace(group, methods=tuple(method for method in wide if method is not None))


def _widest(first: Method, second: Method, network: Network) -> Method | None:
    """Returns settings for grafts of both; None where each needs a bank of its own.

    Raises InputError naming the method if its `widest` fails.
    """
    if first.apart(second):
        return None
    try:
        return first.widest(second, network.spec)
    except Exception as error:  # whatever a user's method raises
        raise InputError(
            f"{first.tag}: widest: {type(error).__name__}: {error}; mend {type(first).__name__}"
        ) from error


def _start(group: Group, network: Network) -> int:
    return lowest_block(_model(group, network, ("",)))


def _model(group: Group, network: Network, labels: tuple[str, ...]) -> GraftModel:
    head = Classification(group.pooling)
    return GraftModel(network, group.methods, head, labels, suffix=group.suffix, drops=group.drops)


def lowest_block(model: GraftModel) -> int:
    """Returns the boundary below which the model is the plain backbone."""
    return min(model.adapted_blocks, default=model.network.spec.blocks)


def _pooling(head: Head) -> Pooling:
    """Returns the pooling of a head that a bank can hold; raises InputError for any other."""
    if "bank" not in head.supports or head.pair != "none":
        raise InputError(
            f"head: a bank holds {kinds_for('bank', ' and ')} heads of one text, this one is "
            f"{head.kind} with pair={head.pair}; `topgraft predict` answers for it"
        )
    return cast(Pooling, head.pooling)  # a bank holds no head of tokens


@dataclass(frozen=True)
class SlotLeaves:
    """A graft in the shapes of a slot, on the host."""

    leaves: Params = field(repr=False)  # float32, without the slot axis
    bytes: int  # bytes of the leaves


class Bank:
    """The slots of one group; only the device thread may call `write`."""

    def __init__(self, network: Network, group: Group, labels: int):
        self.group, self.labels = group, labels
        names = tuple(map(str, range(labels)))
        self.model = _model(group, network, names)
        self.start = lowest_block(self.model)  # boundary where its program begins
        self._blank = map_leaves(np.asarray, self.model.init(jax.random.key(0)))
        self.leaves: Params = jax.tree.map(
            lambda leaf: jnp.asarray(np.broadcast_to(leaf, (group.slots + 1, *leaf.shape))), self._blank
        )
        self.slot_bytes = sum(leaf.nbytes for leaf in flatten(self._blank).values())
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._blank)
        number = jax.ShapeDtypeStruct((), jnp.int32)
        self._update = jax.jit(_write_slot, donate_argnums=0).lower(self.leaves, abstract, number).compile()

    def fit(self, model: GraftModel, params: Params) -> SlotLeaves:
        """Pads the `params` of `model` to the shapes of a slot; raises InputError naming the limit that is exceeded."""
        if (pooling := _pooling(model.head)) != self.group.pooling:
            raise InputError(f"pooling {pooling} is not the group's {self.group.pooling}")
        if len(model.labels) > self.labels:
            raise InputError(f"{len(model.labels)} labels exceed the envelope's {self.labels}")
        if model.suffix != self.group.suffix:
            raise InputError("its pruned blocks are not the group's")
        if model.drops != self.group.drops:
            raise InputError("it drops other tokens than the group's grafts")
        self._check_features(model)
        missing = [wide for wide in self.group.methods if wide.tag not in {m.tag for m in model.methods}]
        for absent in missing:
            if not absent.identity_at_start:
                raise InputError(f"it has no {absent.tag}, which the group cannot switch off")
        leaves = map_leaves(np.array, self._blank)
        order = [wide.tag for wide in self.group.methods if wide not in missing]
        if list(model.site_parts) != [name for name in order if name in self.model.site_parts]:
            raise InputError(f"its methods are {_names(model.methods)}, the group's {_names(self.group.methods)}")
        for name, (method, settings) in model.site_parts.items():
            wide, shared = self.model.site_parts[name]
            if reason := method.apart(wide):
                raise InputError(f"{name}: {reason}")
            if outside := [site.full_name for site in settings if site not in shared]:
                raise InputError(f"{name} adapts {', '.join(outside[:4])}, outside the group's sites")
            if not method.identity_at_start and (rest := [s for s in shared if s not in settings]):
                raise InputError(f"{name} leaves out {rest[0].full_name}, which the group cannot switch off")
            for site, setting in settings.items():
                of_site = map_leaves(np.asarray, leaves_at(params.get("adapter", {}).get(name, {}), site))
                of_block = leaves["adapter"][name][str(site.block)]
                try:
                    padded = _padded(method, setting, of_site, shared[site], of_block[site.name])
                except InputError as error:
                    raise InputError(f"{name} at {site.full_name}: {error}") from error
                of_block[site.name] = padded
        if model.feature_method is not None and (name := model.feature_method.tag) in leaves["adapter"]:
            leaves["adapter"][name] = map_leaves(np.asarray, params.get("adapter", {}).get(name, {}))
        if model.suffix:
            leaves[SUFFIX] = map_leaves(np.asarray, params[SUFFIX])
        extra = self.labels - len(model.labels)
        leaves["head"] = {
            "kernel": np.pad(np.asarray(params["head"]["kernel"]), ((0, 0), (0, extra))),
            "bias": np.pad(np.asarray(params["head"]["bias"]), (0, extra)),
            **{name: leaf for name, leaf in params["head"].items() if name == "query"},
        }
        leaves = map_leaves(lambda leaf: np.asarray(leaf, np.float32), leaves)
        self._check_shapes(leaves)
        return SlotLeaves(leaves, self.slot_bytes)

    def _check_features(self, model: GraftModel) -> None:
        """Raises InputError unless the head reads the same states in the same way as the group's."""
        if _features_key(model) != _features_key(self.model):
            raise InputError(f"its methods are {_names(model.methods)}, the group's {_names(self.group.methods)}")

    def _check_shapes(self, leaves: Params) -> None:
        padded, blank = flatten(leaves), flatten(self._blank)
        for path in padded.keys() | blank.keys():
            shape, expected = (tree[path].shape if path in tree else "absent" for tree in (padded, blank))
            if shape != expected:
                raise InputError(f"{path} is {shape}, the group's is {expected}")

    def write(self, slot: int, leaves: Params) -> None:
        """Replaces the whole slot; the new bank takes the memory of the old one. Raises ValueError for slot 0."""
        if not 1 <= slot <= self.group.slots:
            raise ValueError(f"slot {slot} is not in 1..{self.group.slots}")
        self.leaves = self._update(self.leaves, leaves, np.int32(slot))

    def settle(self) -> None:
        """Waits until every write has finished."""
        jax.block_until_ready(self.leaves)


def _padded(method: SiteMethod, setting: Any, leaves: Params, shared: Any, blank: Params) -> Params:
    """Returns one site's leaves in the shapes of the bank's, `blank`; raises InputError that names the leaf."""
    try:
        padded = method.bank_leaves(setting, leaves, shared)
    except InputError:
        raise
    except Exception as error:  # whatever a user's method raises
        names = ", ".join(leaves)
        raise InputError(f"bank_leaves of the leaves {names}: {type(error).__name__}: {error}") from error
    for leaf in blank.keys() | padded.keys():
        shape, expected = (np.shape(tree[leaf]) if leaf in tree else "absent" for tree in (padded, blank))
        if shape != expected:
            raise InputError(f"the leaf {leaf} is {shape}, the bank's is {expected}; bank_leaves must make it so")
    return padded


def _features_key(model: GraftModel) -> Any:
    """Returns what the grafts of one bank must share to make the head's features; None for plain pooling."""
    return None if model.feature_method is None else model.feature_method.bank_key(model.network.spec)


def _write_slot(bank: Params, leaves: Params, slot: jax.Array) -> Params:
    write = jax.lax.dynamic_update_index_in_dim
    return jax.tree.map(lambda stacked, leaf: write(stacked, leaf, slot, 0), bank, leaves)


def _names(methods: tuple[Method, ...]) -> str:
    return "+".join(spec.method for spec in methods) or "none"


def place_in(banks: Iterable[Bank], model: GraftModel, params: Params, where: str) -> tuple[int, SlotLeaves]:
    """Returns the number of the first group that takes the graft, and its leaves there.

    Raises InputError with the reason of every group.
    """
    try:
        _pooling(model.head)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    reasons = []
    for number, bank in enumerate(banks):
        try:
            return number, bank.fit(model, params)
        except InputError as error:
            reasons.append(f"group {number} ({bank.group.title()}): {error}")
    listed = "\n  ".join(reasons)
    raise InputError(
        f"{where}: outside the envelope declared at start; widen it (--envelope) and start again:\n  {listed}"
    )
