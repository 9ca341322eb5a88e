"""VeRA: y + ((x A) d) B b with learned vectors d and b; all sites share random, frozen A and B.

Source: Kopiczko et al. 2023 (arXiv 2310.11454), equation 2. d starts at `d_start`, b at zero.

A and B are drawn again from the seed wherever they are needed and are neither trained nor stored. They
are the very numbers PEFT draws from the same seed: uniform as Kaiming's for the widest adapted layer,
PyTorch's Mersenne Twister with 24 bits a number, cut to each site's widths.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from adapters.methods.method import Array, Call, Kernel, SiteMethod, select
from adapters.methods.settings import require_blocks, require_patterns, require_positive
from adapters.patterns import Site
from backbone.errors import InputError
from backbone.lazy import jnp
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product


@dataclass(frozen=True)
class VeraSetting:
    """The numbers that decide A [I, r] and B [r, O] at one site."""

    rank: int  # columns of A
    seed: int  # random seed of A and B
    widest: tuple[int, int]  # inputs and outputs of the widest adapted site
    inputs: int  # inputs of this site
    outputs: int  # outputs of this site

    def projections(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns A and B, float32."""
        a, b = draw_projections(self.rank, *self.widest, self.seed)
        return a[: self.inputs], b[:, : self.outputs]


@functools.lru_cache(maxsize=8)
def draw_projections(rank: int, inputs: int, outputs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns A [inputs, rank] and B [rank, outputs] as PEFT draws them: `_kaiming_init` of A, then of B."""
    state = np.random.RandomState(seed)

    def kaiming(rows: int, columns: int) -> np.ndarray:
        bound = np.float32(math.sqrt(3.0) * math.sqrt(2.0) / math.sqrt(columns))
        bits = state.randint(0, 2**32, rows * columns, dtype=np.uint32) & np.uint32(2**24 - 1)
        uniform = bits.astype(np.float32) * np.float32(2.0**-24)
        return (uniform * (bound + bound) - bound).reshape(rows, columns)

    a, b = kaiming(rank, inputs).T, kaiming(outputs, rank).T
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


@dataclass(frozen=True)
class Vera(SiteMethod, tag="vera"):
    """Learned vectors d and b around random, shared matrices: y + ((x A) d) B b.

    Source: Kopiczko et al. 2023 (arXiv 2310.11454), equation 2. A and B are drawn from `seed` and never stored; b
    starts at zero.
    """

    free_in_bank: ClassVar[tuple[str, ...]] = ("sites", "blocks", "d_start")

    rank: int = 256  # columns of A
    sites: tuple[str, ...] = ("attention/query", "attention/value")  # patterns over linear sites
    seed: int = 0  # random seed of A and B; PEFT's projection_prng_key
    d_start: float = 0.1  # first value of d
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_positive(rank=self.rank, d_start=self.d_start)
        require_blocks(self.blocks)
        require_patterns(sites=self.sites)
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: must lie in 0..{2**32 - 1}, got {self.seed}")

    def settings(self, encoder: EncoderSpec) -> dict[Site, VeraSetting]:
        chosen = self.chosen(encoder)
        widest = max(site.inputs for site in chosen), max(site.outputs for site in chosen)
        return {site: VeraSetting(self.rank, self.seed, widest, site.inputs, site.outputs) for site in chosen}

    def init(self, site: Site, setting: VeraSetting, rng: Array) -> Params:
        return {"d": jnp.full((self.rank,), self.d_start), "b": jnp.zeros((site.outputs,))}

    def after(self, setting: VeraSetting, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        d, b = (select(leaves[name], call.slots).astype(x.dtype) for name in "db")
        shared_a, shared_b = (jnp.asarray(p, x.dtype) for p in setting.projections())
        rows = x.reshape(-1, x.shape[-1]) @ shared_a
        mixed = (rows.reshape(*x.shape[:-1], -1) * d).reshape(rows.shape) @ shared_b
        return y + mixed.reshape(y.shape) * b

    def merge(self, setting: VeraSetting, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        a, b = setting.projections()
        return kernel + (a * leaves["d"]) @ b * leaves["b"], bias

    def cost(self, setting: VeraSetting, site: Site, batch: int, length: int) -> Count:
        tokens = batch * length
        return product(tokens, site.inputs, setting.rank) + product(tokens, setting.rank, site.outputs)

    @classmethod
    def example(cls) -> Self:
        return cls(rank=16)
