"""What a method is: pure functions of a site's parameters, for one adapter or a bank of them.

A `SiteMethod` acts inside blocks; a `FeatureMethod` reads hidden states and never differentiates
the backbone. Both are stateless; settings that differ between sites (a rank) are in `settings`.

In a bank every leaf has a leading slot axis [S, ...] and `slots` int32 [B] says which slot each row
uses; without one `slots` is None. `select` gives both the same shape rules, so the code of a method is
written once: matrices broadcast over the batch in `@`, vectors gain a token axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from adapters.patterns import Site
from backbone.errors import InputError
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, elementwise

Array = jax.Array
S = TypeVar("S")  # the method's spec


def select(leaf: Array, slots: Array | None) -> Array:
    """The leaf of each row: matrices [I,O] -> [B,I,O], vectors [O] -> [B,1,O]; unchanged without slots."""
    if slots is None:
        return leaf
    rows = leaf[slots]
    return rows[:, None, :] if rows.ndim == 2 else rows


def dropout(x: Array, rate: float, rng: Array | None) -> Array:
    """Zeroes with probability `rate` and rescales; the identity without `rng`."""
    if rng is None or rate == 0:
        return x
    keep = jax.random.bernoulli(rng, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class Call(NamedTuple):
    """What a hook is called with besides activations."""

    slots: Array | None  # int32 [B], or None without a bank
    rng: Array | None  # key of dropout at this site, or None for none


class Kernel(NamedTuple):
    """The frozen weights of a linear site."""

    kernel: Array  # [I,O]
    bias: Array | None  # [O]


class SiteMethod(Generic[S]):
    """Acts at sites of blocks. A method overrides what it uses; the rest is the identity."""

    spec_type: ClassVar[type]
    identity_at_start: ClassVar[bool] = True  # fresh leaves change nothing, to the last bit
    leads: ClassVar[bool] = False  # reads the frozen kernel as if alone: the first method at its sites, or an error

    def settings(self, spec: S, encoder: EncoderSpec) -> dict[Site, Any]:
        """The sites it acts at, with what is particular to each; raises InputError on a bad pattern."""
        raise NotImplementedError

    def matched(self, spec: S, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        """What each pattern of the spec matched, for people."""
        return {"": tuple(self.settings(spec, encoder))}

    def init(self, spec: S, site: Site, setting: Any, rng: Array) -> Params:
        """Float32 leaves of one site, exactly the identity at step 0 unless `identity_at_start` is false.

        The backbone's weights are not at hand: what is relative to them is stored as a difference or a ratio.
        """
        raise NotImplementedError

    def changes_input(self, site_name: str, setting: Any) -> bool:
        """Whether `before` acts at this linear site, so that its product cannot be shared."""
        return False

    def before(self, setting: Any, leaves: Params, x: Array, call: Call) -> Array:
        """Linear site: the input [B,T,I] of the product."""
        return x

    def after(self, setting: Any, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        """Linear site: the output [B,T,O], from the product's input x and output y."""
        return y

    def sublayer(self, setting: Any, leaves: Params, x: Array, y: Array, call: Call) -> Array:
        """Sublayer site: the output [B,T,D]."""
        return y

    def attend(self, setting: Any, leaves: Params, k: Array, v: Array, call: Call) -> tuple[Array, Array]:
        """Attend site: keys and values [B,S,D]."""
        return k, v

    def norm(self, setting: Any, leaves: Params, scale: Array, bias: Array, call: Call) -> tuple[Array, Array]:
        """Norm site: its scale and bias, [D], or [B,1,D] with slots."""
        return scale, bias

    def merge(self, setting: Any, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array] | None:
        """Kernel and bias of a linear site with the adapter folded in; None if the algebra forbids it."""
        return None

    def work(self, setting: Any, site: Site, batch: int, length: int) -> Count:
        """The forward pass of the method at one site, on `batch` rows of `length` tokens."""
        return elementwise(batch * length * site.outputs, 2)

    def bank_leaves(self, setting: Any, leaves: Params, shared: Any) -> Params:
        """NumPy `leaves` of a site with `setting`, as a bank holds them whose one program has the setting `shared`.

        What differs is padded or folded into the leaves; raises InputError naming the limit where it cannot be.
        """
        if at_inference(setting) != at_inference(shared):
            raise InputError(f"{setting} is not the bank's {shared}")
        return leaves

    def widest(self, first: S, second: S, encoder: EncoderSpec) -> S | None:
        """A spec whose bank holds grafts of both specs, or None: then each needs its own bank."""
        return first if at_inference(first) == at_inference(second) else None


def at_inference(setting: Any) -> Any:
    """A spec or setting without what only matters in training."""
    if is_dataclass(setting) and not isinstance(setting, type) and hasattr(setting, "dropout"):
        return replace(setting, dropout=0.0)
    return setting


Pool = Callable[[Array], Array]  # hidden [B,T,D] -> [B,D]


class FeatureMethod(Generic[S]):
    """Turns hidden states at `taps` into the head's features; gradients stop at the states."""

    spec_type: ClassVar[type]

    def taps(self, spec: S, encoder: EncoderSpec) -> tuple[int, ...]:
        """The boundaries whose states it reads, ascending."""
        raise NotImplementedError

    def width(self, spec: S, encoder: EncoderSpec) -> int:
        """Features per example."""
        raise NotImplementedError

    def init(self, spec: S, encoder: EncoderSpec, rng: Array) -> Params:
        """Float32 parameters."""
        raise NotImplementedError

    def features(
        self, spec: S, encoder: EncoderSpec, params: Params, states: Mapping[int, Array], mask: Array, pool: Pool
    ) -> Array:
        """Features [B,F] from the tapped states [B,T,D]; the last boundary's state is finished."""
        raise NotImplementedError

    def work(self, spec: S, encoder: EncoderSpec, batch: int, length: int) -> Count:
        """Of a forward pass over `batch` rows of `length` tokens; none unless the method says so."""
        return Count()
