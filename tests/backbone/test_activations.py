"""Activations of the mlp: the shorter form of gelu is the formula, and only what is rounded next takes it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erfc

from backbone.network.activations import ACTIVATIONS, BEFORE_ROUNDING, activation
from backbone.storage import in_precision


def test_both_forms_of_gelu_are_the_formula():
    x = np.concatenate([np.linspace(-12, 12, 20001), [-100, 0, 100]]).astype(np.float32)
    expected = 0.5 * x.astype(float) * erfc(-x.astype(float) / np.sqrt(2))
    for rounded in (False, True):
        given = np.asarray(jax.jit(activation("gelu", rounded=rounded))(x))
        np.testing.assert_allclose(given, expected, rtol=3e-7, atol=3e-7 * 12)
        gradient = np.asarray(jax.vmap(jax.grad(activation("gelu", rounded=rounded)))(jnp.asarray(x)))
        density = np.exp(-(x.astype(float) ** 2) / 2) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(gradient, 0.5 * erfc(-x / np.sqrt(2)) + x * density, atol=1e-6)


def test_no_other_activation_has_two_forms():
    assert {name for name in ACTIVATIONS if ACTIVATIONS[name] is not BEFORE_ROUNDING[name]} == {"gelu"}


@pytest.mark.parametrize(
    ("precision", "form"), [("float32", "erfc"), ("int4", "erfc"), ("bfloat16", "erf"), ("int8", "erf")]
)
def test_a_trunk_whose_products_round_their_states_takes_the_shorter_form(tiny, precision, form):
    assert tiny.spec.activation == "gelu"
    trunk = in_precision(tiny, precision)
    hidden, mask = np.zeros((2, 8, tiny.spec.width), np.float32), np.ones((2, 8), bool)
    text = jax.make_jaxpr(trunk.network.run_blocks)(trunk.params, hidden, mask).pretty_print()
    assert {name for name in ("erf", "erfc") if f" {name} " in text} == {form}
