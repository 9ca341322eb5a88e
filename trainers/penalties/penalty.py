"""The base of penalties: terms that are added to the loss of a step, each with its weight over the run.

A penalty sees the trained leaves of each method at each place, and their values at the start of the run. It states on
which methods it acts; a graft without such a method is refused. Penalties are part of a config, so this file imports no
jax. Shape letters: `I` and `O` inputs and outputs of a site, `R` ranks, or hidden units of a bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from adapters.methods.method import Array, Method
from backbone.errors import InputError
from backbone.lazy import jnp
from backbone.trees import Params, flatten
from backbone.variants.registered import Registered

Ramp: TypeAlias = Literal["constant", "rising", "falling"]

if TYPE_CHECKING:
    from adapters.methods.method import SiteMethod


@dataclass(frozen=True)
class Part:
    """The trained leaves of one method at one place."""

    method: Method
    leaves: Mapping[str, Array]  # trained leaves
    start: Mapping[str, Array]  # the same leaves at the start of the run

    @property
    def rank_axes(self) -> Mapping[str, int]:
        """Returns the axis that is the rank, by leaf; empty where the method has no ranks."""
        return rank_axes(self.method)


def rank_axes(method: Method) -> Mapping[str, int]:
    """Returns the axis that is the rank, by leaf of a method at a site; empty where it has no ranks."""
    site_method: SiteMethod | Any = method
    axes: Mapping[str, int] = site_method.rank_axes if method.acts_at_sites else {}
    return axes


class Penalty(Registered, by="penalty", folder="trainers.penalties", needs=("acts_on", "value")):
    """A term of the loss. A variant states `weight`, `schedule`, on what it acts, and its value at one place."""

    subject: ClassVar[str] = "trained leaves"  # what the penalty acts on, in messages

    weight: float  # factor of the term
    schedule: Ramp  # factor of the weight over the run: 1, or a line from 0 to 1, or from 1 to 0

    def __post_init__(self) -> None:
        if not (0 < self.weight < math.inf):
            raise InputError(f"weight: must be positive and finite, got {self.weight}; leave the penalty out for none")

    def acts_on(self, method: Method) -> bool:
        """Returns whether a method has something that the penalty acts on."""
        raise NotImplementedError

    def value(self, part: Part) -> Array:
        """Returns the term float32 [] of one place, without its weight."""
        raise NotImplementedError

    def weight_at(self, share: Any) -> Any:
        """Returns the weight after a share 0..1 of the run."""
        return self.weight * {"constant": 1.0, "rising": share, "falling": 1.0 - share}[self.schedule]

    @classmethod
    def example(cls) -> Self:
        """Returns small settings, on which the test suite of all penalties runs; the default ones."""
        return cls()


def parts_of(methods: Sequence[Method], adapter: Params, start: Params) -> Iterator[Part]:
    """Yields the parts of an adapter's trained tree, by method and place; `start` is the tree at the start."""
    for method in methods:
        leaves, first = adapter.get(method.tag, {}), start.get(method.tag, {})
        if not method.acts_at_sites:
            yield Part(method, flatten(leaves), flatten(first))
            continue
        for block, places in leaves.items():
            for place, at_place in places.items():
                yield Part(method, at_place, first[block][place])


def total(
    penalties: Sequence[Penalty], methods: Sequence[Method], adapter: Params, start: Params, share: Array
) -> Array:
    """Returns the sum float32 [] of all penalties after a share of the run, each over the parts that it acts on."""
    parts = list(parts_of(methods, adapter, start))
    terms = [p.weight_at(share) * p.value(part) for p in penalties for part in parts if p.acts_on(part.method)]
    return jnp.asarray(sum(terms), jnp.float32)


def require_subjects(penalties: Sequence[Penalty], methods: Sequence[Method]) -> None:
    """Raises InputError for a penalty that has nothing to act on."""
    tags = ", ".join(method.tag for method in methods)
    for number, penalty in enumerate(penalties):
        if methods[0].fitted:
            raise InputError(
                f"penalties[{number}]: {penalty.tag} is a term of a training step, and a {tags} is fitted without "
                "steps; leave it out, or use another adapter.method"
            )
        if not any(penalty.acts_on(method) for method in methods):
            raise InputError(
                f"penalties[{number}]: {penalty.tag} acts on {penalty.subject}; adapter.method={tags} has none: use "
                "lora, or another penalty"
            )
