"""VeRA: y + ((x A) d) B b, vectors d and b learned, A and B random, frozen and shared by all sites.

Source: Kopiczko et al. 2023 (arXiv 2310.11454), equation 2. d starts at `d_start`, b at zero.

A and B are drawn again from the seed wherever they are needed and are neither trained nor stored. They
are the very numbers PEFT draws from the same seed: uniform as Kaiming's for the widest adapted layer,
PyTorch's Mersenne Twister with 24 bits a number, cut to each site's widths.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from adapters.methods.method import Array, Call, Kernel, SiteMethod, select
from adapters.patterns import Site, match, matched_sites, sites_of
from adapters.specs import Vera
from backbone.sites import LINEAR
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product


@dataclass(frozen=True)
class VeraSetting:
    """What decides A [I, r] and B [r, O] at one site."""

    rank: int
    seed: int
    widest: tuple[int, int]  # inputs and outputs of the widest adapted site
    inputs: int  # of this site
    outputs: int

    def projections(self) -> tuple[np.ndarray, np.ndarray]:
        """A and B, float32."""
        a, b = draw_projections(self.rank, *self.widest, self.seed)
        return a[: self.inputs], b[:, : self.outputs]


@functools.lru_cache(maxsize=8)
def draw_projections(rank: int, inputs: int, outputs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A [inputs, rank] and B [rank, outputs] as PEFT draws them (`_kaiming_init` of A, then of B)."""
    state = np.random.RandomState(seed)

    def kaiming(rows: int, columns: int) -> np.ndarray:
        bound = np.float32(math.sqrt(3.0) * math.sqrt(2.0) / math.sqrt(columns))
        bits = state.randint(0, 2**32, rows * columns, dtype=np.uint32) & np.uint32(2**24 - 1)
        uniform = bits.astype(np.float32) * np.float32(2.0**-24)
        return (uniform * (bound + bound) - bound).reshape(rows, columns)

    a, b = kaiming(rank, inputs).T, kaiming(outputs, rank).T
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


class VeraMethod(SiteMethod[Vera]):
    spec_type = Vera

    def settings(self, spec: Vera, encoder: EncoderSpec) -> dict[Site, VeraSetting]:
        chosen = matched_sites(spec.sites, sites_of(encoder, LINEAR, spec.blocks))
        widest = max(site.inputs for site in chosen), max(site.outputs for site in chosen)
        return {site: VeraSetting(spec.rank, spec.seed, widest, site.inputs, site.outputs) for site in chosen}

    def matched(self, spec: Vera, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        return match(spec.sites, sites_of(encoder, LINEAR, spec.blocks))

    def init(self, spec: Vera, site: Site, setting: VeraSetting, rng: Array) -> Params:
        return {"d": jnp.full((spec.rank,), spec.d_start), "b": jnp.zeros((site.outputs,))}

    def after(self, setting: VeraSetting, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        d, b = (select(leaves[name], call.slots).astype(x.dtype) for name in "db")
        shared_a, shared_b = (jnp.asarray(p, x.dtype) for p in setting.projections())
        rows = x.reshape(-1, x.shape[-1]) @ shared_a
        mixed = (rows.reshape(*x.shape[:-1], -1) * d).reshape(rows.shape) @ shared_b
        return y + mixed.reshape(y.shape) * b

    def merge(self, setting: VeraSetting, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        a, b = setting.projections()
        return kernel + (a * leaves["d"]) @ b * leaves["b"], bias

    def work(self, setting: VeraSetting, site: Site, batch: int, length: int) -> Count:
        tokens = batch * length
        return product(tokens, site.inputs, setting.rank) + product(tokens, setting.rank, site.outputs)
