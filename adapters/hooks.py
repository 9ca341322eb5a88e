"""Site methods and their parameters, bound to the hooks that `run_blocks` calls.

At a linear site every method's `before` acts on the input in turn, then the product runs, then every
`after` acts on the output. Query, key and value stay one product unless a method changes the input
of one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from adapters.methods.method import Array, Call, Kernel, SiteMethod
from adapters.patterns import Site, leaves_at
from backbone.network.sites import ATTEND, PLAIN_HOOKS, BlockHooks
from backbone.network.stored import FrozenKernel, columns
from backbone.trees import Params


@dataclass(frozen=True)
class Acting:
    """One method at one site, with the leaves of that site."""

    method: SiteMethod  # method that acts
    setting: Any  # its setting at this site
    leaves: Params  # its parameters at this site


class GraftHooks:
    """The hooks of every block; made inside the trace from the adapter's parameters.

    Only the parameters of blocks that are run are needed.
    """

    def __init__(
        self,
        parts: Mapping[str, tuple[SiteMethod, Mapping[Site, Any]]],  # `GraftModel.site_parts`
        params: Params,
        slots: Array | None = None,
    ):
        self._parts, self._params, self._slots = parts, params, slots

    def block(self, index: int, rng: Array | None) -> BlockHooks:
        """Returns the hooks of block `index`; `rng` is its key of dropout, or None."""
        acting: dict[str, list[Acting]] = {}
        for name, (method, settings) in self._parts.items():
            for site, setting in settings.items():
                if site.block == index:
                    leaves = leaves_at(self._params.get(name, {}), site)
                    acting.setdefault(site.name, []).append(Acting(method, setting, leaves))
        return _GraftedBlock(acting, self._slots, rng) if acting else PLAIN_HOOKS


class _GraftedBlock(BlockHooks):
    """One block's hooks: by site, the methods that act there in turn."""

    def __init__(self, acting: dict[str, list[Acting]], slots: Array | None, rng: Array | None):
        self._acting = acting
        keys = [None] * len(acting) if rng is None else list(jax.random.split(rng, len(acting)))
        self._calls = {name: Call(slots, key) for name, key in zip(acting, keys, strict=True)}

    def linear(self, name: str, x: Array, kernel: FrozenKernel, bias: Array | None) -> Array:
        for part in self._acting.get(name, ()):
            x = part.method.before(part.setting, part.leaves, x, self._calls[name])
        return self._after(name, x, super().linear(name, x, kernel, bias), Kernel(kernel, bias))

    def joint(self, widths: Mapping[str, int], x: Array, kernel: FrozenKernel, bias: Array | None) -> tuple[Array, ...]:
        names, kernels = tuple(widths), columns(kernel, tuple(widths.values()))
        ends = list(itertools.accumulate(widths.values()))[:-1]
        biases = [None] * len(names) if bias is None else jnp.split(bias, ends)
        if any(p.method.changes_input(name, p.setting) for name in names for p in self._acting.get(name, ())):
            return tuple(self.linear(n, x, k, b) for n, k, b in zip(names, kernels, biases, strict=True))
        outputs = super().joint(widths, x, kernel, bias)
        return tuple(
            self._after(n, x, y, Kernel(k, b)) for n, y, k, b in zip(names, outputs, kernels, biases, strict=True)
        )

    def _after(self, name: str, x: Array, y: Array, kernel: Kernel) -> Array:
        for part in self._acting.get(name, ()):
            y = part.method.after(part.setting, part.leaves, x, y, kernel, self._calls[name])
        return y

    def sublayer(self, name: str, x: Array, y: Array) -> Array:
        for part in self._acting.get(name, ()):
            y = part.method.sublayer(part.setting, part.leaves, x, y, self._calls[name])
        return y

    def attend(self, k: Array, v: Array) -> tuple[Array, Array]:
        for part in self._acting.get(ATTEND[0], ()):
            k, v = part.method.attend(part.setting, part.leaves, k, v, self._calls[ATTEND[0]])
        return k, v

    def norm(self, name: str, scale: Array, bias: Array) -> tuple[Array, Array]:
        for part in self._acting.get(name, ()):
            scale, bias = part.method.norm(part.setting, part.leaves, scale, bias, self._calls[name])
        return scale, bias
