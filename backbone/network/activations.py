"""Activations of the mlp.

A precision that rounds the states before the next product (`backbone.network.stored.rounds_states`) takes a shorter
form where there is one. The exact gelu is 0.5 x (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel 2016, arXiv 1606.08415,
equation 2). `jax.nn.gelu` computes it by erfc, which keeps the relative accuracy of tiny values far below zero. That
takes three times the seconds on a CPU, and rounding to 8 bits or fewer loses that accuracy at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def _gelu_by_erf(x: Array) -> Array:
    """Computes the exact gelu; its absolute error is that of float32 at x."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "squared_relu": lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021, arXiv 2109.08668, section 3
}
BEFORE_ROUNDING = ACTIVATIONS | {"gelu": _gelu_by_erf}


def activation(name: str, *, rounded: bool) -> Callable[[Array], Array]:
    """Returns an activation by its name; `rounded`: the next product rounds what it gives."""
    return (BEFORE_ROUNDING if rounded else ACTIVATIONS)[name]
