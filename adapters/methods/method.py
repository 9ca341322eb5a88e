"""The base classes of methods. A method is a frozen dataclass: its fields are its settings, its functions are pure.

A `SiteMethod` acts inside blocks, at the sites that its patterns match (`adapters.patterns`). A `FeatureMethod` reads
hidden states and never differentiates the backbone. A quantity that differs between the sites of one method (a
rank, say) is in its setting there: `settings` computes it once, and the hooks get it back.

In a bank every leaf has a leading slot axis [S, ...], and `slots` int32 [B] says which slot each row uses; without a
bank `slots` is None. `select` gives both the same shapes, so that a method is written once: matrices broadcast over
the batch in `@`, vectors gain a token axis. Shape letters: `B` batch, `T` tokens, `D` width of the backbone, `I` and
`O` inputs and outputs of a site, `F` features of an example.

Configs are made of methods, so importing one imports no jax: `backbone.lazy` imports it when a function first runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias, TypeVar, cast

import numpy as np

from adapters.methods.settings import block_range
from adapters.patterns import Site, match, sites_of
from backbone.errors import InputError
from backbone.lazy import jax, jnp
from backbone.network.sites import ATTEND, LINEAR, NORM, SUBLAYER
from backbone.network.stored import FrozenKernel, dense
from backbone.spec import EncoderSpec
from backbone.trees import Params
from backbone.variants.registered import Registered
from metering.counts import Count, elementwise

Array: TypeAlias = "jax.Array"
Pool: TypeAlias = Callable[[Array], Array]  # hidden [B,T,D] -> [B,D]
T = TypeVar("T")
M = TypeVar("M", bound="Method")


def select(leaf: Array, slots: Array | None) -> Array:
    """Returns each row's leaf: matrices [I,O] -> [B,I,O], vectors [O] -> [B,1,O]; without slots the leaf itself."""
    if slots is None:
        return leaf
    rows = leaf[slots]
    return rows[:, None, :] if rows.ndim == 2 else rows


def dropout(x: Array, rate: float, rng: Array | None) -> Array:
    """Sets entries to zero with probability `rate` and rescales the rest; returns x itself without `rng`."""
    if rng is None or rate == 0:
        return x
    keep = jax.random.bernoulli(rng, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class Call(NamedTuple):
    """The arguments of a hook besides activations."""

    slots: Array | None  # slot of each row, int32 [B]; None without a bank
    rng: Array | None  # key of dropout at this site; None without dropout


class Kernel(NamedTuple):
    """The frozen weights of a linear site."""

    stored: FrozenKernel  # weights [I,O] in the trunk's precision
    bias: Array | None  # bias [O]; None where the layer has none

    @property
    def kernel(self) -> Array:
        """Returns the weights as a float32 array [I,O], whatever the trunk's precision."""
        return dense(self.stored)


class Method(Registered, by="method", folder="adapters.methods"):
    """A way to adapt a backbone. Callers ask for the properties below, never for a class."""

    method: ClassVar[str]  # tag in configs and manifests, given by the class statement: tag="lora"
    acts_at_sites: ClassVar[bool]  # acts inside blocks, instead of on hidden states
    fitted: ClassVar[bool] = False  # the head is fitted in closed form to fixed features, not trained by gradient steps
    differentiates_backbone: ClassVar[bool] = True  # gradients pass through the backbone's blocks
    stands_alone: ClassVar[bool] = False  # a config with this adapter takes no `extra`
    adapts_ranks: ClassVar[bool] = False  # `with_fewer` gives each site a rank of its own
    reads_pooled: ClassVar[bool] = False  # its features are its taps' pooled states, side by side: stored ones suffice
    identity_at_start: ClassVar[bool] = True  # fresh parameters change nothing, to the last bit

    def matched(self, encoder: EncoderSpec) -> dict[str, tuple[str, ...]]:
        """Returns the names of the places where the method acts, by pattern; "" stands for no pattern."""
        raise NotImplementedError

    def reads_below(self, encoder: EncoderSpec, boundary: int) -> bool:
        """Returns whether hidden states below `boundary` are needed beside those at it."""
        return False

    def widest(self, other: Self, encoder: EncoderSpec) -> Self | None:
        """Returns settings whose bank holds grafts of both methods, or None: then each needs a bank of its own."""
        raise NotImplementedError

    def apart(self, other: Self) -> str:
        """Returns why grafts of both cannot share a bank, where no leaf could make up for it; "" by default."""
        return ""

    @classmethod
    def example(cls) -> Self:
        """Returns small settings, on which the test suite of all methods runs; the default ones."""
        return cls()


HOOKS = (
    (LINEAR, ("before", "after")),
    (SUBLAYER, ("sublayer",)),
    (ATTEND, ("attend",)),
    (NORM, ("norm",)),
)  # names of sites of one kind, and the hooks of which a method there overrides one


class SiteMethod(Method, needs=("init",)):
    """A method that acts at sites of blocks. A variant overrides what it uses; the rest is the identity.

    The usual fields are `sites` and, last, `blocks`. A variant without `sites` overrides `groups`.
    """

    acts_at_sites: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = LINEAR  # names of the sites among which the patterns choose
    leads: ClassVar[bool] = False  # reads the frozen kernel as if alone: must be the first method at its sites
    # fields in which the grafts of one bank may differ; `bank_leaves` makes up for them where they change the algebra
    free_in_bank: ClassVar[tuple[str, ...]] = ("sites", "blocks", "dropout")
    rank_axes: ClassVar[Mapping[str, int]] = MappingProxyType({})  # axis that is the rank or hidden unit, by leaf

    sites: tuple[str, ...]  # patterns over site names
    blocks: str  # range of blocks, slice notation

    @classmethod
    def misses(cls) -> Iterator[str]:
        def overrides(name: str) -> bool:
            return getattr(cls, name) is not getattr(SiteMethod, name)

        below = cls.__mro__[: cls.__mro__.index(SiteMethod)]
        fields = {name for base in below for name in (*vars(base), *inspect.get_annotations(base))}
        for name, way in (("sites", "groups"), ("blocks", "candidates")):
            if name not in fields and not overrides(way):
                yield f"the field {name} is missing; add it, or override {way}"
        for kind, hooks in HOOKS:
            acts_at = [name for name in kind if name in cls.kinds]
            if acts_at and not any(map(overrides, hooks)):
                yield f"{' or '.join(hooks)} is missing: it does nothing at {', '.join(acts_at)}"
        if overrides("before") and not overrides("changes_input"):
            yield "changes_input is missing: query, key and value are one product, without `before`, unless it says so"

    def candidates(self, encoder: EncoderSpec) -> tuple[Site, ...]:
        """Returns the sites among which the patterns choose, in order."""
        return sites_of(encoder, self.kinds, self.blocks)

    def groups(self, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        """Returns the sites that each pattern matched; raises InputError for a pattern that matches nothing."""
        return match(self.sites, self.candidates(encoder))

    def chosen(self, encoder: EncoderSpec) -> tuple[Site, ...]:
        """Returns the sites at which the method acts, in order."""
        chosen = {site for group in self.groups(encoder).values() for site in group}
        return tuple(site for site in self.candidates(encoder) if site in chosen)

    def settings(self, encoder: EncoderSpec) -> dict[Site, Any]:
        """Returns the sites at which the method acts, each with its setting (None without one).

        The order decides which key `init` gets. Raises InputError for a pattern that matches nothing.
        """
        return dict.fromkeys(self.chosen(encoder))

    def matched(self, encoder: EncoderSpec) -> dict[str, tuple[str, ...]]:
        return {pattern: tuple(site.full_name for site in group) for pattern, group in self.groups(encoder).items()}

    def init(self, site: Site, setting: Any, rng: Array) -> Params:
        """Returns fresh float32 leaves of one site; they change nothing unless `identity_at_start` is false.

        The backbone's weights are not at hand: a leaf relative to them is stored as a difference or a ratio.
        """
        raise NotImplementedError

    def changes_input(self, site_name: str, setting: Any) -> bool:
        """Returns whether `before` acts at this linear site, so that its product cannot be shared."""
        return False

    def before(self, setting: Any, leaves: Params, x: Array, call: Call) -> Array:
        """Returns the input [B,T,I] of a linear site's product."""
        return x

    def after(self, setting: Any, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        """Returns the output [B,T,O] of a linear site, from the product's input x and output y."""
        return y

    def sublayer(self, setting: Any, leaves: Params, x: Array, y: Array, call: Call) -> Array:
        """Returns the output [B,T,D] of a sublayer site, from its input x and its plain output y."""
        return y

    def attend(self, setting: Any, leaves: Params, k: Array, v: Array, call: Call) -> tuple[Array, Array]:
        """Returns the keys and values [B,S,D] of an attend site."""
        return k, v

    def norm(self, setting: Any, leaves: Params, scale: Array, bias: Array, call: Call) -> tuple[Array, Array]:
        """Returns the scale and bias of a norm site: [D], or [B,1,D] with slots."""
        return scale, bias

    def merge(self, setting: Any, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array] | None:
        """Returns a linear site's kernel and bias with the adapter folded in; None if the algebra forbids it."""
        return None

    def with_fewer(self, encoder: EncoderSpec, ranks: Mapping[Site, int]) -> Self:
        """Returns settings with these ranks by site, all at least 1, and the scales of these; no other site is left."""
        raise NotImplementedError

    def cost(self, setting: Any, site: Site, batch: int, length: int) -> Count:
        """Returns the work of the method's forward pass at one site, on `batch` rows of `length` tokens."""
        return elementwise(batch * length * site.outputs, 2)

    def bank_leaves(self, setting: Any, leaves: Params, shared: Any) -> Params:
        """Pads and rescales one site's NumPy `leaves`, so that a bank compiled for `shared` computes `setting`.

        Both are values of `settings`: that of the graft at this site, and the bank's. The leaves that are returned have
        the names and shapes of `init(site, shared, rng)`. Raises InputError naming the limit that is exceeded.
        """
        if at_inference(setting) != at_inference(shared):
            raise InputError(f"{setting} is not the bank's {shared}")
        return leaves

    def widest(self, other: Self, encoder: EncoderSpec) -> Self | None:
        return self if at_inference(self) == at_inference(other) else None

    def apart(self, other: Self) -> str:
        for field in fields(cast(Any, self)):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name not in self.free_in_bank and mine != theirs:
                return f"{field.name} {mine} is not the bank's {theirs}"
        return ""


class FeatureMethod(Method, needs=("taps", "width", "init", "features")):
    """A method that makes the head's features of the hidden states at `taps`; gradients stop at these states."""

    acts_at_sites: ClassVar[bool] = False
    differentiates_backbone: ClassVar[bool] = False
    stands_alone: ClassVar[bool] = True

    def taps(self, encoder: EncoderSpec) -> tuple[int, ...]:
        """Returns the boundaries whose states are read, ascending."""
        raise NotImplementedError

    def width(self, encoder: EncoderSpec) -> int:
        """Returns the number of features of an example."""
        raise NotImplementedError

    def init(self, encoder: EncoderSpec, rng: Array) -> Params:
        """Returns fresh float32 parameters."""
        raise NotImplementedError

    def features(
        self, encoder: EncoderSpec, params: Params, states: Mapping[int, Array], mask: Array, pool: Pool
    ) -> Array:
        """Returns features [B,F] from the tapped states [B,T,D]; the state at the last boundary is finished."""
        raise NotImplementedError

    def of_pooled(self, encoder: EncoderSpec, pooled: np.ndarray) -> np.ndarray:
        """Returns features float32 [N,F] from stored pooled states [N,L+1,P], where the method reads nothing else."""
        return pooled[:, list(self.taps(encoder))].reshape(len(pooled), -1)

    def cost(self, encoder: EncoderSpec, batch: int, length: int) -> Count:
        """Returns the work of a forward pass over `batch` rows of `length` tokens."""
        return Count()

    def bank_key(self, encoder: EncoderSpec) -> Any:
        """Returns a key that the grafts of one bank share; None if the features are the backbone's pooled output."""
        return at_inference(self)

    def matched(self, encoder: EncoderSpec) -> dict[str, tuple[str, ...]]:
        return {"": tuple(f"boundary {tap}" for tap in self.taps(encoder))}

    def reads_below(self, encoder: EncoderSpec, boundary: int) -> bool:
        return self.taps(encoder)[0] < boundary

    def widest(self, other: Self, encoder: EncoderSpec) -> Self | None:
        return self if self == other else None


def site_methods(methods: Iterable[Method]) -> tuple[SiteMethod, ...]:
    """Returns the methods that act at sites, in order."""
    return tuple(cast(SiteMethod, method) for method in methods if method.acts_at_sites)


def feature_methods(methods: Iterable[Method]) -> tuple[FeatureMethod, ...]:
    """Returns the methods that make the head's features, in order."""
    return tuple(cast(FeatureMethod, method) for method in methods if not method.acts_at_sites)


def at_inference(setting: T) -> T:
    """Returns a method or setting without its dropout, which only matters in training."""
    if is_dataclass(setting) and not isinstance(setting, type) and hasattr(setting, "dropout"):
        return cast(T, replace(setting, dropout=0.0))
    return setting


def above(method: M, first: int, count: int) -> M:
    """Returns a method that acts in blocks, without the blocks below `first` of `count`."""
    spec: Any = method
    return cast(M, replace(spec, blocks=f"{max(first, block_range(spec.blocks, count).start)}:"))
