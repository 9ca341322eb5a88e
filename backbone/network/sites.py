"""Sites: the named places in a block where a method may act, and the default action there.

Four kinds, and one class of hooks for each block (shapes: B batch, T tokens, D width):

- linear     `linear(name, x [B,T,I], kernel [I,O], bias [O]) -> y [B,T,O]`: the hook owns the product,
             so it may change input, kernel and output. `joint` is the same for sites that read one
             input (query, key, value): their kernels lie side by side in one array, and the default
             runs them as one product.
- sublayer   `sublayer(name, x, y) -> y`: x is the sublayer's input, y its output before the residual
             sum (`attention`, `mlp`), or the block's input and output (`block`).
- attend     `attend(k, v) -> k, v` [B,S,K]: may prepend keys and values. K is D, or less where queries share keys.
- norm       `norm(name, scale [D], bias [D]) -> scale, bias`: patches a norm's parameters before they are
             used, [D] or one for each row, [B,1,D]. Biases of dense layers need no hook of their own:
             a linear site adds to its output.

The block never asks which method is there; with nothing grafted it calls `PLAIN_HOOKS`. Importing this module imports
no jax.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from backbone.lazy import jax, jnp
from backbone.network.stored import FrozenKernel

Array: TypeAlias = "jax.Array"

QUERY, KEY, VALUE = "attention/query", "attention/key", "attention/value"
ATTENTION_OUTPUT, MLP_UP, MLP_DOWN = "attention/output", "mlp/up", "mlp/down"
ATTENTION_NORM, MLP_NORM = "attention/norm", "mlp/norm"

LINEAR = (QUERY, KEY, VALUE, ATTENTION_OUTPUT, MLP_UP, MLP_DOWN)
SUBLAYER = ("attention", "mlp", "block")
ATTEND = ("attend",)
NORM = (ATTENTION_NORM, MLP_NORM)


def product(x: Array, kernel: FrozenKernel, bias: Array | None) -> Array:
    """Returns x W + b in the dtype of x, as one product of matrices.

    XLA on CPU is slower with a batch axis.
    """
    from backbone.network.products import matrix_product

    y = matrix_product(x.reshape(-1, x.shape[-1]), kernel)
    y = y if bias is None else y + bias.astype(x.dtype)
    return y.reshape(*x.shape[:-1], -1)


class BlockHooks:
    """The actions at the sites of one block. This base class is the plain block."""

    def linear(self, name: str, x: Array, kernel: FrozenKernel, bias: Array | None) -> Array:
        return product(x, kernel, bias)

    def joint(self, widths: Mapping[str, int], x: Array, kernel: FrozenKernel, bias: Array | None) -> tuple[Array, ...]:
        """Returns the outputs of several sites that read one input; kernel [I, sum of `widths`], bias alike.

        `widths` are the outputs of each site by its name, in the order in which they lie in the kernel.
        """
        y = product(x, kernel, bias)
        return tuple(jnp.split(y, list(itertools.accumulate(widths.values()))[:-1], axis=-1))

    def sublayer(self, name: str, x: Array, y: Array) -> Array:
        return y

    def attend(self, k: Array, v: Array) -> tuple[Array, Array]:
        return k, v

    def norm(self, name: str, scale: Array, bias: Array) -> tuple[Array, Array]:
        return scale, bias


PLAIN_HOOKS = BlockHooks()


class Hooks(Protocol):
    """A source of hooks for `run_blocks`: those of block `index`; `rng` is that block's key or None."""

    def block(self, index: int, rng: Any | None) -> BlockHooks: ...
