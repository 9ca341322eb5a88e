"""Tokens dropped between blocks: at a boundary the k tokens stay that received most attention in the block below.

The number that stays is fixed for each boundary, so that every shape is static; the choice follows the input. The first
and the last token of a row, the special ones, always stay, and the order of tokens is kept. A row of fewer tokens loses
none. Heads pool what stayed. Method: Goyal et al. 2020 (PoWER-BERT, arXiv 2001.08950), section 3, without training.
Shapes: `B` rows, `T` tokens, `K` tokens that stay, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backbone.errors import InputError
from backbone.lazy import jax, jnp
from backbone.network.sites import Hooks
from backbone.spec import EncoderSpec
from backbone.trees import Params

if TYPE_CHECKING:
    from jax import Array

    from backbone.network.encoder import Network

MIN_TOKENS = 4  # smallest number that may stay: both special tokens, and two others


@dataclass(frozen=True)
class Drop:
    """How many tokens enter a block."""

    boundary: int  # boundary behind which the other tokens are gone
    keep: int  # tokens of a row that stay

    def __post_init__(self) -> None:
        if self.boundary < 1 or self.keep < MIN_TOKENS:
            raise InputError(
                f"drops: from boundary 1 on, and at least {MIN_TOKENS} tokens stay; got {self.keep} at {self.boundary}"
            )


def require_drops(drops: Sequence[Drop], spec: EncoderSpec, top: int) -> None:
    """Raises InputError unless fewer tokens stay at each boundary, below `top`, and the trunk's blocks allow it."""
    boundaries, keeps = [drop.boundary for drop in drops], [drop.keep for drop in drops]
    if boundaries != sorted(set(boundaries)) or keeps != sorted(set(keeps), reverse=True):
        raise InputError(f"drops: boundaries must ascend, and fewer tokens stay at each; got {boundaries}, {keeps}")
    if boundaries and boundaries[-1] >= top:
        raise InputError(f"drops: boundary {boundaries[-1]} is not below {top}, the last that the graft reads")
    if drops and spec.image:
        raise InputError("drops: a backbone for images has a fixed number of patches; tokens of texts are dropped")
    if drops and (any(spec.windows) or spec.rotary_theta):
        raise InputError(
            "drops: the attention of this backbone depends on the distance of tokens (windows or rotary positions), "
            "which dropping changes"
        )


def tokens_at(drops: Sequence[Drop], length: int, block: int) -> int:
    """Returns how many tokens of a row of `length` enter a block."""
    return min([length, *(drop.keep for drop in drops if drop.boundary <= block)])


def run_dropping(
    network: Network,
    params: Params,
    hidden: Array,
    mask: Array,
    hooks: Hooks | None,
    drops: Sequence[Drop],
    *,
    start: int,
    taps: Sequence[int],
) -> tuple[dict[int, Array], dict[int, Array]]:
    """Runs blocks from `start`, below the first drop, on states [B,T,D] with `mask` bool [B,T].

    Returns the states at `taps`, and their masks; those at a drop's boundary still have the tokens that it takes away.
    """
    states: dict[int, Array] = {}
    masks: dict[int, Array] = {}

    def run(stop: int) -> Array:
        reached = sorted({stop, *(tap for tap in taps if start <= tap <= stop)})
        end, tapped = network.run_blocks(params, hidden, mask, hooks, start=start, stop=stop, taps=reached)
        for tap in reached:
            states.setdefault(tap, tapped[tap])
            masks.setdefault(tap, mask)
        return end  # type: ignore[no-any-return]

    for drop in drops:
        if drop.keep >= hidden.shape[1]:
            continue
        below = run(drop.boundary - 1)
        hidden, scores = network.run_scored(params, below, mask, hooks, block=drop.boundary - 1)
        states[drop.boundary], masks[drop.boundary] = hidden, mask
        chosen = kept(scores, mask, drop.keep)
        hidden = jnp.take_along_axis(hidden, chosen[:, :, None], axis=1)
        mask = jnp.take_along_axis(mask, chosen, axis=1)
        start = drop.boundary
    run(max(taps))
    return {tap: states[tap] for tap in taps}, {tap: masks[tap] for tap in taps}


def kept(scores: Array, mask: Array, keep: int) -> Array:
    """Returns the places int32 [B,K] of the tokens that stay, ascending, by scores [B,T]."""
    place = jnp.arange(mask.shape[1])
    special = (place == 0) | (place == mask.sum(axis=1, keepdims=True) - 1)
    ranked = jnp.where(special, jnp.inf, jnp.where(mask, scores, -1.0))
    return jnp.sort(jax.lax.top_k(ranked, keep)[1], axis=1)


__all__ = ["Drop", "kept", "require_drops", "run_dropping", "tokens_at"]
