"""Gradients of each row's loss by masks of one, for the Fisher information of heads and mlp units.

Every row has masks of its own, so that one backward pass gives the gradients of all rows of a batch. Source: Kwon et
al. 2022 (arXiv 2204.09656), equation 5. Shape letters: `N` rows, `S` blocks of the suffix, `H` heads, `U` mlp units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.model import GraftModel
from backbone.trees import Params
from trainers.data.batches import Batch
from trainers.pruning.hooks import RowMasks


def mask_gradients(
    model: GraftModel, trunk: Params, params: Params, first: int, batches: Sequence[Batch]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns gradients float32 [N,S,H] and [N,S,U] for every row that is no filling.

    `trunk` are the plain parameters of the network, adapters folded in; each batch holds the states at the taps below
    `first`, and at `first`.
    """
    spec, last = model.network.spec, max(model.taps)
    shapes = (last - first, spec.heads), (last - first, spec.mlp_width)

    def loss(masks: tuple[jax.Array, jax.Array], trunk: Params, batch: Any) -> jax.Array:
        heads, units = (jnp.repeat(mask, model.sides, axis=0) for mask in masks)
        states, missing = batch["states"], [tap for tap in model.taps if tap > first]
        hooks = RowMasks(heads, units, first)
        _, above = model.network.run_blocks(
            trunk, states[first], batch["mask"], hooks, start=first, stop=last, taps=missing
        )
        features = model.features_from_states(
            trunk, params.get("adapter", {}), {**states, **above}, batch["mask"], params["head"]
        )
        logits = model.head.logits(params["head"], features, None, None)
        return (model.head.loss(logits, batch["labels"]) * batch["weights"]).sum()

    gradient = jax.jit(jax.grad(loss))
    results: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in batches:
        ones = tuple(jnp.ones((len(batch["weights"]), *shape)) for shape in shapes)
        rows = np.asarray(batch["weights"]) > 0
        heads, units = gradient(ones, trunk, batch)
        results.append((np.asarray(heads)[rows], np.asarray(units)[rows]))
    return np.concatenate([heads for heads, _ in results]), np.concatenate([units for _, units in results])
