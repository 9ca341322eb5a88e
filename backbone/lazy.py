"""Modules that are imported when a function first uses them, so that settings can be read without them.

    from backbone.lazy import jax, jnp

A variant's file holds its settings beside its code. Configs import the settings, and a retraining that has nothing to
do must not pay for jax. Use the names inside functions only: a use at the top of a file imports at once.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["jax", "jnp", "optax", "scipy"]


class LazyModule(ModuleType):
    """A stand-in for a module; the first look at an attribute imports the module."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        self.__dict__[name] = value  # the next look finds it without this function
        return value


if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp
    import optax
    import scipy
else:
    jax, jnp, optax, scipy = map(LazyModule, ("jax", "jax.numpy", "optax", "scipy"))
