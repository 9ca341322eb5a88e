"""Softmax, norms, activations, attention, and their gradients.

Each bound follows the formula from left to right; f is `FUNCTION`, and d the distance of a logit from the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from metering.known_answers.program import FUNCTION, Array, Program, U, gamma

MASKED = -1e9  # logit of what must not be seen
EPSILON = 1e-5  # beside the variance in a norm
_erf = np.vectorize(math.erf, otypes=[np.float64])


def programs(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    """Yields the programs; `rounding` is the relative error with which the backend reads a product's inputs."""
    yield from _softmax(draw)
    yield from _norms(draw)
    yield from _activations(draw)
    yield from _attention(draw, rounding)


def _normal(draw: np.random.Generator, *shape: int) -> Array:
    return draw.normal(0.5, 1.0, shape).astype(np.float32)


def softmax(logits: Array) -> tuple[Array, Array]:
    """Returns probabilities float64 over the last axis, and their bound for exact logits.

    exp errs by u d + f, the sum of T such terms by gamma(T) more, and the quotient by u.
    """
    distance = logits.max(-1, keepdims=True) - logits
    weights = np.exp(-distance)
    chances = weights / weights.sum(-1, keepdims=True)
    near = np.where(chances > 0, distance, 0).max(-1, keepdims=True)
    return chances, chances * (2 * (U * near + FUNCTION) + gamma(logits.shape[-1] + 2))


def _softmax(draw: np.random.Generator) -> Iterator[Program]:
    logits = 3 * _normal(draw, 7, 33)
    mask = np.arange(33) < np.array([33, 1, 20, 5, 32, 2, 9])[:, None]
    chances, bound = softmax(np.where(mask, logits, MASKED).astype(np.float64))
    yield Program(
        "masked softmax",
        lambda logits, mask: jax.nn.softmax(jnp.where(mask, logits, MASKED)),
        (logits, mask),
        chances,
        bound,
    )
    wide, labels = logits.astype(np.float64), draw.integers(0, 33, 7).astype(np.int32)
    top, rows = wide.max(1), np.arange(7)
    total = np.log(np.exp(wide - top[:, None]).sum(1))
    bound = U * (wide.max() - wide.min()) + FUNCTION * (1 + total) + gamma(33) + 2 * U * (np.abs(top) + np.abs(total))
    yield Program("logsumexp", lambda x: jax.nn.logsumexp(x, -1), (logits,), top + total, bound)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]

    picked = wide[rows, labels]
    bound = bound + 3 * U * (np.abs(picked) + np.abs(top) + total)
    yield Program("cross entropy", loss, (logits, labels), top + total - picked, bound)
    chances, bound = softmax(wide)
    truth = np.eye(33)[labels]
    yield Program(
        "gradient of cross entropy",
        jax.grad(lambda logits, labels: jnp.mean(loss(logits, labels))),
        (logits, labels),
        (chances - truth) / 7,
        (2 * bound + 4 * U * (chances + truth)) / 7,
    )


def _norms(draw: np.random.Generator) -> Iterator[Program]:
    width = 48
    x, scale, bias = _normal(draw, 5, width), _normal(draw, width), _normal(draw, width)
    wide = x.astype(np.float64)

    def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias

    centred = wide - wide.mean(1, keepdims=True)
    rate = 1 / np.sqrt(wide.var(1, keepdims=True) + EPSILON)
    shift = gamma(width + 1) * np.abs(wide).mean(1, keepdims=True)  # error of the mean
    spread = gamma(width + 5) + 2 * (shift * rate) ** 2 + FUNCTION + 4 * U  # relative error of the rest
    error = np.abs(scale) * rate * (shift + np.abs(centred) * spread)
    right = centred * rate * scale + bias
    yield Program("layer norm", layer_norm, (x, scale, bias), right, error + 2 * U * (np.abs(right) + np.abs(bias)))

    g = _normal(draw, 5, width)
    slope, form = g.astype(np.float64) * scale, centred * rate
    mean, along = slope.mean(1, keepdims=True), (slope * form).mean(1, keepdims=True)
    sums = np.abs(slope).mean(1, keepdims=True), np.abs(slope * form).mean(1, keepdims=True)
    size = rate * (np.abs(slope) + sums[0] + (np.abs(form) + shift * rate) * sums[1])
    yield Program(
        "gradient of layer norm",
        jax.grad(lambda x, scale, bias, g: jnp.sum(layer_norm(x, scale, bias) * g)),
        (x, scale, bias, g),
        rate * (slope - mean - form * along),
        # five factors a term, each within the bound of the norm itself
        (gamma(2 * width + 8) + 5 * (spread + shift * rate)) * size,
    )
    power = (wide**2).mean(1, keepdims=True)
    right = wide / np.sqrt(power + EPSILON) * scale
    yield Program(
        "rms norm",
        lambda x, scale: x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPSILON) * scale,
        (x, scale),
        right,
        (gamma(width + 5) + FUNCTION) * np.abs(right),
    )


def _activations(draw: np.random.Generator) -> Iterator[Program]:
    x = np.linspace(-6, 6, 1201, dtype=np.float32)
    wide = x.astype(np.float64)
    half, density = 0.5 * (1 + _erf(wide / math.sqrt(2))), np.exp(-(wide**2) / 2) / math.sqrt(2 * math.pi)
    error = FUNCTION + 4 * U + 2 * U * np.abs(wide) * density  # of the normal distribution function
    yield _elementwise("gelu", lambda x: jax.nn.gelu(x, approximate=False), x, wide * half, np.abs(wide) * error)
    yield Program(
        "gradient of gelu",
        jax.grad(lambda x: jnp.sum(jax.nn.gelu(x, approximate=False))),
        (x,),
        half + wide * density,
        2 * error + np.abs(wide) * density * (FUNCTION + 8 * U + U * wide**2),
    )
    inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
    bound = np.abs(wide) / 2 * (FUNCTION + 4 * U + 6 * U * np.abs(inner) / np.cosh(inner) ** 2)
    yield _elementwise("gelu by tanh", jax.nn.gelu, x, wide / 2 * (1 + np.tanh(inner)), bound)
    right = wide / (1 + np.exp(-wide))
    yield _elementwise("silu", jax.nn.silu, x, right, np.abs(right) * (2 * FUNCTION + (4 + np.abs(wide)) * U))
    yield _elementwise("tanh", jnp.tanh, x, np.tanh(wide), FUNCTION * np.abs(np.tanh(wide)))
    yield _elementwise("exp", jnp.exp, x, np.exp(wide), FUNCTION * np.exp(wide))
    right = np.log(np.abs(wide) + 0.125)
    yield _elementwise("log", lambda x: jnp.log(jnp.abs(x) + 0.125), x, right, U + FUNCTION * np.abs(right))
    angle = 8 * wide
    yield _elementwise(
        "cosine and sine", lambda x: jnp.cos(8 * x) - jnp.sin(8 * x), x, np.cos(angle) - np.sin(angle), 16 * U
    )


def _elementwise(name: str, compute: Callable[..., jax.Array], x: Array, right: Array, bound: Array | float) -> Program:
    return Program(name, compute, (x,), right, np.asarray(bound))


def _attention(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    """Attention over T keys of width D, with a mask, and its gradient for the queries."""
    rows, tokens, width = 3, 9, 8
    q, k, v, g = (_normal(draw, rows, tokens, width) for _ in range(4))
    mask = np.arange(tokens) < np.array([9, 4, 1])[:, None]

    def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        scores = jnp.einsum("btd,bsd->bts", q, k) / math.sqrt(width)
        return jnp.einsum("bts,bsd->btd", jax.nn.softmax(jnp.where(mask[:, None], scores, MASKED)), v)

    wide = [x.astype(np.float64) for x in (q, k, v, g)]
    sizes = [np.abs(x) for x in wide]
    root = math.sqrt(width)
    scores = np.where(mask[:, None], np.einsum("btd,bsd->bts", *wide[:2]) / root, MASKED)
    chances, _ = softmax(scores)
    near = np.where(chances > 0, scores.max(-1, keepdims=True) - scores, 0).max()
    error = (gamma(width + 2) + 2 * rounding) * np.einsum("btd,bsd->bts", *sizes[:2]).max() / root  # of a score
    relative = 2 * (error + U * near + FUNCTION) + gamma(tokens + 2)  # error of a probability
    yield Program(
        "attention with a mask",
        attention,
        (q, k, v, mask),
        chances @ wide[2],
        (relative + gamma(tokens) + 2 * rounding) * (chances @ sizes[2]),
    )
    into = np.einsum("btd,bsd->bts", wide[3], wide[2])
    into_size = np.einsum("btd,bsd->bts", sizes[3], sizes[2])
    slope = chances * (into - (into * chances).sum(-1, keepdims=True))
    slope_size = chances * (into_size + (into_size * chances).sum(-1, keepdims=True))
    yield Program(
        "gradient of attention",
        jax.grad(lambda q, k, v, mask, g: jnp.sum(attention(q, k, v, mask) * g)),
        (q, k, v, mask, g),
        slope @ wide[1] / root,
        (2 * relative + gamma(width + 2 * tokens + 8) + 6 * rounding) * (slope_size @ sizes[1]) / root,
    )
