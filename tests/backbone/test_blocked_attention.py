"""Attention over blocks of keys against the plain way: values, gradients, memory; and which way is taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backbone.network import attention as module
from backbone.network.attention import PLAIN_KEYS, attention, fits_cudnn
from tests import reference

LONG = 600  # tokens: more than the plain way takes, and no multiple of a block


def drawn(tokens, prepended=0, rows=2, width=16, seed=0):
    draw = np.random.default_rng(seed)
    q = draw.normal(size=(rows, tokens, width)).astype(np.float32)
    k, v = (draw.normal(size=(rows, tokens + prepended, width)).astype(np.float32) for _ in range(2))
    mask = np.arange(tokens) < np.linspace(tokens, tokens // 3, rows)[:, None]
    return q, k, v, mask


def in_way(monkeypatch, keys):
    monkeypatch.setattr(module, "PLAIN_KEYS", keys)


def value_and_gradients(q, k, v, mask, **options):
    weights = np.random.default_rng(9).normal(size=q.shape).astype(np.float32) * mask[..., None]

    def loss(q, k, v):
        mixed = attention(q, k, v, mask, heads=2, **options)
        return (mixed * weights).sum(), mixed

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


@pytest.mark.parametrize("options", [{}, {"window": 70}], ids=["all", "window"])
@pytest.mark.parametrize("prepended", [0, 3])
def test_blocks_give_the_values_and_gradients_of_the_plain_way(monkeypatch, prepended, options):
    rows = drawn(LONG, prepended)
    (_, blocked), gradients = value_and_gradients(*rows, **options)
    in_way(monkeypatch, 10_000)
    (_, plain), expected = value_and_gradients(*rows, **options)
    assert np.abs(np.asarray(blocked) - np.asarray(plain)).max() > 0, "both were computed in one way"
    np.testing.assert_allclose(blocked, plain, atol=2e-6)
    for gradient, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, other, atol=5e-6)


def test_blocks_equal_softmax_with_large_scores_and_empty_rows():
    q, k, v, mask = drawn(LONG)
    mask = mask & (np.arange(2) == 0)[:, None]  # the second row has no real token
    mixed = np.asarray(attention(30 * q, 30 * k, v, mask, heads=1))
    weights = reference.softmax(900 * q[0] @ k[0].T / 4)
    np.testing.assert_allclose(mixed[0], weights @ v[0], atol=1e-3)  # of scores of some 4,000
    np.testing.assert_allclose(mixed[1], np.broadcast_to(v[1].mean(0), mixed[1].shape), atol=1e-5)


def test_a_block_whose_keys_are_all_hidden_changes_nothing():
    q, k, v, mask = drawn(LONG)
    mask = mask & (np.arange(LONG) >= 300)
    mask[1] = np.arange(LONG) >= 500
    mixed = attention(q, k, v, mask, heads=1)
    for row in range(2):
        weights = reference.softmax(q[row] @ k[row][mask[row]].T / 4)
        np.testing.assert_allclose(mixed[row], weights @ v[row][mask[row]], atol=2e-6)


def test_sixteen_bit_states_are_within_their_rounding(monkeypatch):
    q, k, v, mask = (x if x.dtype == bool else jnp.asarray(x, jnp.bfloat16) for x in drawn(LONG))
    mixed = attention(q, k, v, mask, heads=2)
    in_way(monkeypatch, 10_000)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        mixed.astype(np.float32), attention(q, k, v, mask, heads=2).astype(np.float32), atol=2e-2
    )


def test_a_gradient_at_512_tokens_takes_half_of_the_memory(monkeypatch):
    rows = drawn(512, width=768)

    def peak():
        loss = lambda q, k, v: attention(q, k, v, rows[3], heads=12).sum()  # noqa: E731
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*rows[:3]).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    plain = peak()
    in_way(monkeypatch, 0)
    assert peak() <= plain / 2


def test_memory_grows_with_the_length_and_not_with_its_square():
    def peak(tokens):
        q, k, v, mask = drawn(tokens)
        loss = lambda q, k, v: attention(q, k, v, mask, heads=2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    assert peak(4096) < 2.2 * peak(2048)


def test_rows_of_512_keys_keep_the_plain_way():
    """Stored states, canaries and goldens rest on its bits."""
    text = jax.jit(lambda *x: attention(*x, heads=2)).lower(*drawn(PLAIN_KEYS)).as_text()
    assert "while" not in text
    assert "while" in jax.jit(lambda *x: attention(*x, heads=2)).lower(*drawn(PLAIN_KEYS, prepended=1)).as_text()


def test_cudnn_takes_even_lengths_of_sixteen_bit_states_alone(monkeypatch):
    monkeypatch.setattr(module, "has_cudnn", lambda: True)
    of = lambda tokens, depth, dtype: jnp.zeros((1, tokens, 2, depth), dtype)  # noqa: E731
    keys = of(8, 64, jnp.bfloat16)
    assert fits_cudnn(keys, keys)
    assert fits_cudnn(of(6, 64, jnp.float16), keys)
    for q in (of(8, 64, jnp.float32), of(7, 64, jnp.bfloat16), of(8, 12, jnp.bfloat16), of(8, 256, jnp.bfloat16)):
        assert not fits_cudnn(q, q)
