"""Tuning of masks: what stays is scaled so that each layer gives again what the whole one gave.

Source: Kwon et al. 2022 (arXiv 2204.09656), section 4.3. Layer after layer, from the first on, the factors m minimise

    || x + layer(x; m) - (x' + layer(x'; 1)) ||^2

over the tokens of the rows, with the pruned network's states x and the whole one's x'. It is a linear least-squares
problem. Here it is solved by its normal equations, with a ridge towards m = 1. Factors outside -10..10 are given up, as
in the authors' code: the layer keeps ones. Shape letters: `B` rows, `T` tokens, `D` width, `H` heads, `U` mlp units,
`M` columns of a problem (heads or units), `n` tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backbone.network.encoder import Network
from backbone.network.sites import ATTENTION_OUTPUT, MLP_DOWN, MLP_UP
from backbone.spec import EncoderSpec
from backbone.trees import Params
from trainers.pruning.hooks import Recorder
from trainers.pruning.kernels import scaled, sliced
from trainers.pruning.masks import Masks

RIDGE = 1e-3  # added to the diagonal of the normal equations, in parts of its mean
LARGEST = 10.0  # factor beyond which a layer keeps ones


def tuned(
    network: Network, trunk: Params, first: int, masks: Masks, states: Sequence[Any], visible: Sequence[Any]
) -> dict[str, Params]:
    """Returns the pruned blocks from `first` on, on the host, by number.

    `states` [B,T,D] are those at `first` of each batch, `visible` bool [B,T] its tokens without filling.
    """
    spec, blocks = network.spec, {}
    whole, pruned = list(states), list(states)
    for number, (heads, units) in enumerate(zip(masks.heads, masks.units, strict=True)):
        index = first + number
        weights = trunk["blocks"][str(index)]
        block = sliced(weights, heads, units, spec)
        run = functools.partial(_run, network, index)
        aims = [run(weights, state, mask) for state, mask in zip(whole, visible, strict=True)]
        for part, name, problem in (("attention", "output", _of_heads), ("mlp", "down", _of_units)):
            passes = [run(block, state, mask) for state, mask in zip(pruned, visible, strict=True)]
            factors = _solved(spec, problem, block[part][name], passes, aims, visible)
            block = scaled(block, part, name, factors)
        blocks[str(index)] = block
        pruned = [run(block, state, mask)["next"] for state, mask in zip(pruned, visible, strict=True)]
        whole = [aim["next"] for aim in aims]
    return blocks


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(network: Network, index: int, weights: Params, hidden: Any, mask: Any) -> dict[str, Any]:
    """Runs one block, and returns what its two sublayers read and give [B,T,.], and the next states."""
    recorder = Recorder()
    backbone = {"blocks": {str(index): weights}}
    following = network.run_blocks(backbone, hidden, mask, recorder, start=index, stop=index + 1)
    middle = hidden + recorder.outputs[ATTENTION_OUTPUT]
    residual = middle if network.spec.norm == "pre" else recorder.inputs[MLP_UP]
    return {
        "next": following,
        "output": (recorder.inputs[ATTENTION_OUTPUT], hidden, recorder.outputs[ATTENTION_OUTPUT]),
        "down": (recorder.inputs[MLP_DOWN], residual, recorder.outputs[MLP_DOWN]),
    }


def _solved(
    spec: EncoderSpec, problem: Any, layer: Params, passes: Sequence[Any], aims: Sequence[Any], visible: Sequence[Any]
) -> np.ndarray:
    """Returns the factors float [M] of one layer, from its passes over all batches."""
    name = "output" if problem is _of_heads else "down"
    count = len(layer["kernel"]) // (spec.width // spec.heads if problem is _of_heads else 1)
    gram, right = np.zeros((count, count)), np.zeros(count)
    for one, aim, mask in zip(passes, aims, visible, strict=True):
        x, residual, y = one[name]
        rest = jnp.where(mask[..., None], aim[name][1] + aim[name][2] - residual - y, 0)  # what ones leave [B,T,D]
        x = jnp.where(mask[..., None], x, 0)
        part = problem(spec, x.reshape(-1, x.shape[-1]), rest.reshape(-1, rest.shape[-1]), layer["kernel"])
        gram, right = gram + np.asarray(part[0], np.float64), right + np.asarray(part[1], np.float64)
    ridge = RIDGE * np.trace(gram) / len(gram)
    factors = 1 + np.linalg.solve(gram + ridge * np.eye(len(gram)), right)
    return factors if np.isfinite(factors).all() and np.abs(factors).max() <= LARGEST else np.ones(len(factors))


@functools.partial(jax.jit, static_argnums=0)
def _of_heads(spec: EncoderSpec, x: Any, rest: Any, kernel: Any) -> tuple[Any, Any]:
    """Returns A'A [H,H] and A'b [H], A's columns what each head gives: x [n,H d] by kernel [H d,D]."""
    depth = spec.width // spec.heads
    by_head = kernel.reshape(-1, depth, kernel.shape[1])
    given = jnp.einsum("nhd,hdo->nho", x.reshape(len(x), -1, depth), by_head)
    return jnp.einsum("nho,nko->hk", given, given), jnp.einsum("nho,no->h", given, rest)


@functools.partial(jax.jit, static_argnums=0)
def _of_units(spec: EncoderSpec, x: Any, rest: Any, kernel: Any) -> tuple[Any, Any]:
    """Returns A'A [U,U] and A'b [U], A's columns what each unit gives: x [n,U] by kernel [U,D].

    (A'A)_uv = sum_n x_nu x_nv (w_u . w_v), so no array of n U D numbers is made.
    """
    return (x.T @ x) * (kernel @ kernel.T), (x * (rest @ kernel.T)).sum(axis=0)
