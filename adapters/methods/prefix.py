"""Prefix tuning: P learned keys and values [P, D] before those of the input, in every block.

Source: Li & Liang 2021 (arXiv 2101.00190), section 4.2, without the network that produces the prefix
in training. Every token sees the prefix, so it takes a share of the attention whatever its values:
unlike all other methods it changes the backbone's output from the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from adapters.methods.method import Array, Call, SiteMethod, select
from adapters.methods.settings import require_blocks, require_positive
from adapters.patterns import Site
from backbone.lazy import jax, jnp
from backbone.network.sites import ATTEND
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product


@dataclass(frozen=True)
class Prefix(SiteMethod, tag="prefix"):
    """Learned keys and values before those of the input, in every chosen block.

    Source: Li & Liang 2021 (arXiv 2101.00190), section 4.2. Not the identity at step 0.
    """

    kinds: ClassVar[tuple[str, ...]] = ATTEND
    identity_at_start: ClassVar[bool] = False

    length: int = 16  # keys and values in each block
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_positive(length=self.length)
        require_blocks(self.blocks)

    def groups(self, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        return {"": self.candidates(encoder)}

    def settings(self, encoder: EncoderSpec) -> dict[Site, Prefix]:
        return dict.fromkeys(self.chosen(encoder), self)

    def init(self, site: Site, setting: Prefix, rng: Array) -> Params:
        from backbone.network.encoder import INIT_STD

        key, value = INIT_STD * jax.random.normal(rng, (2, self.length, site.inputs))
        return {"key": key, "value": value}

    def attend(self, setting: Prefix, leaves: Params, k: Array, v: Array, call: Call) -> tuple[Array, Array]:
        def before(leaf: Array, rows: Array) -> Array:
            learned = select(leaf, call.slots).astype(rows.dtype)
            learned = jnp.broadcast_to(learned, (rows.shape[0], setting.length, rows.shape[-1]))
            return jnp.concatenate([learned, rows], axis=1)

        return before(leaves["key"], k), before(leaves["value"], v)

    def cost(self, setting: Prefix, site: Site, batch: int, length: int) -> Count:
        return 2 * product(length, site.inputs, setting.length, batch=batch)

    @classmethod
    def example(cls) -> Self:
        return cls(length=3)
