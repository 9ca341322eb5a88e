"""Every conversion of a primitive computes what jax computes, at lengths that the graph does not know."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import export, lax

from adapters.export.onnx import tracing  # noqa: F401  # fills the table
from adapters.export.onnx.conversion import CONVERSIONS, convert
from adapters.export.onnx.fusions import fuse
from adapters.export.onnx.graph import Graph, Value, model_of
from backbone.errors import InputError

X = np.linspace(0.1, 2.0, 24, dtype=np.float32).reshape(3, 4, 2) * np.float32([1.0, -0.7])  # [b, t, 2]
WEIGHT = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
TABLE = np.arange(20, dtype=np.float32).reshape(10, 2)


def positive(x):
    return jnp.abs(x) + 0.1


def first(x):
    return x[:, :, 0]


# of each primitive a function of x float32 [b,t,2] that holds it
FUNCTIONS = {
    "abs": jnp.abs,
    "add": lambda x: x + x[..., :1],
    "and": lambda x: (x > 0) & (x < 1),
    "argmax": lambda x: lax.argmax(x, 2, jnp.int32),
    "broadcast_in_dim": lambda x: jnp.broadcast_to(first(x)[:, :, None, None], (*x.shape[:2], 3, 2)) * WEIGHT[0, 0],
    "ceil": jnp.ceil,
    "clamp": lambda x: lax.clamp(jnp.float32(-0.5), x, jnp.float32(0.8)),
    "concatenate": lambda x: jnp.concatenate([x, x[:, :1], jnp.ones((x.shape[0], 2, 2))], axis=1),
    "convert_element_type": lambda x: (x * 3).astype(jnp.int32).astype(jnp.float32) + (x > 0).astype(jnp.float32),
    "copy": lambda x: lax.copy_p.bind(x),
    "cos": jnp.cos,
    "dim_as_value": lambda x: x.sum() / jnp.asarray(x.shape[1] * x.shape[0] + 2, jnp.float32),
    "div": lambda x: x / positive(x),
    "dot_general": lambda x: (
        (x @ WEIGHT).sum() + jnp.einsum("bti,bsi->bts", x, x) + jnp.einsum("bti,bti->b", x, x).max()
    ),
    "eq": lambda x: x == first(x)[..., None],
    "erf": lax.erf,
    "erfc": lax.erfc,
    "exp": jnp.exp,
    "floor": jnp.floor,
    "gather": lambda x: (
        jnp.asarray(TABLE)[jnp.abs(x[..., 0] * 3).astype(jnp.int32)] + jnp.asarray(TABLE)[1 : 1 + x.shape[1]]
    ),
    "ge": lambda x: x >= first(x)[..., None],
    "gt": lambda x: x > first(x)[..., None],
    "integer_pow": lambda x: x**3,
    "iota": lambda x: x * jnp.arange(x.shape[1])[:, None] + lax.broadcasted_iota(jnp.float32, x.shape, 0),
    "le": lambda x: x <= first(x)[..., None],
    "log": lambda x: jnp.log(positive(x)),
    "log1p": lambda x: jnp.log1p(positive(x)),
    "logistic": jax.nn.sigmoid,
    "lt": lambda x: x < first(x)[..., None],
    "max": lambda x: jnp.maximum(x, 0.3),
    "min": lambda x: jnp.minimum(x, 0.3),
    "mul": lambda x: x * x[..., ::-1],
    "ne": lambda x: x != first(x)[..., None],
    "neg": lambda x: -x,
    "not": lambda x: ~(x > 0),
    "optimization_barrier": lambda x: lax.optimization_barrier(x),
    "or": lambda x: (x > 1) | (x < 0),
    "pad": lambda x: jnp.pad(x, ((0, 0), (2, 1), (0, 1)), constant_values=7.0),
    "pow": lambda x: positive(x) ** jnp.abs(x),
    "reduce_and": lambda x: (x > -0.5).all(axis=1),
    "reduce_max": lambda x: x.max(axis=(1, 2)),
    "reduce_min": lambda x: x.min(axis=0),
    "reduce_or": lambda x: (x > 1.9).any(axis=1),
    "reduce_prod": lambda x: x.prod(axis=2),
    "reduce_sum": lambda x: jnp.broadcast_to(x[:, :1], x.shape).sum(axis=1),
    "reshape": lambda x: x.reshape(x.shape[0] * x.shape[1], 2).reshape(x.shape[0], -1, 1, 2)[..., 0],
    "rev": lambda x: lax.rev(x, (1, 2)),
    "round": lambda x: jnp.round(x * 5 + jnp.array([0.5, 1.5])),
    "rsqrt": lambda x: lax.rsqrt(positive(x)),
    "select_n": lambda x: jnp.where(jnp.where(x > 0, x > 1, x > -0.5), x, first(x)[..., None]),
    "sign": jnp.sign,
    "sin": jnp.sin,
    "slice": lambda x: lax.slice(x, (0, 1, 0), (x.shape[0], x.shape[1], 2), (1, 1, 2)),
    "split": lambda x: jnp.split(x, 2, axis=2)[1],
    "sqrt": lambda x: jnp.sqrt(positive(x)),
    "square": jnp.square,
    "squeeze": lambda x: lax.squeeze(x[:, :, :1], (2,)),
    "stop_gradient": lambda x: lax.stop_gradient(x) * 2,
    "sub": lambda x: x - first(x)[..., None],
    "tanh": jnp.tanh,
    "top_k": lambda x: lax.top_k(x[..., 0], 2)[0],
    "transpose": lambda x: x.transpose(2, 0, 1),
    "xor": lambda x: (x > 0) ^ (x < 1),
}


def names_in(jaxpr) -> set[str]:
    """Names of all primitives, those of inner jaxprs too."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for value in equation.params.values():
            names |= names_in(getattr(value, "jaxpr", value)) if hasattr(value, "eqns") else set()
    return names


def traced(function):
    rows, tokens = export.symbolic_shape("b, t", constraints=["b >= 2", "t >= 3", "t <= 9"])
    return jax.make_jaxpr(function)(jax.ShapeDtypeStruct((rows, tokens, 2), np.float32)), (rows, tokens, 2)


def session_of(function, *, fusing=False):
    from onnx import helper

    jaxpr, shape = traced(function)
    graph = Graph()
    graph.symbols = {"b": graph.one("Shape", "x", start=0, end=1), "t": graph.one("Shape", "x", start=1, end=2)}
    values = convert(graph, jaxpr.jaxpr, jaxpr.consts, [Value(shape, np.dtype(np.float32), shape, "x")])
    if fusing:
        fuse(graph)
    graph.output(values[0], "y")
    element = helper.np_dtype_to_tensor_dtype(values[0].dtype)
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)), ["b", "t", 2])]
    rank = [None] * len(values[0].shape)
    model = model_of(graph, inputs, {"y": helper.make_tensor_value_info("y", element, rank)}, {})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return (session, {node.op_type for node in model.graph.node}) if fusing else session


def test_every_conversion_is_tested():
    assert set(FUNCTIONS) == set(CONVERSIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_conversion_computes_what_jax_computes(name):
    function = FUNCTIONS[name]
    session = session_of(function)
    assert name in names_in(traced(function)[0].jaxpr)
    for x in (X, X[:, :3], np.concatenate([X, X[::-1]])[:5]):
        expected = np.asarray(function(jnp.asarray(x)))
        (result,) = session.run(None, {"x": np.ascontiguousarray(x)})
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(result.astype(float), expected.astype(float), rtol=2e-6, atol=2e-6)


def test_sums_of_int8_are_exact_where_short_sums_overflow():
    kernel = np.where(np.random.default_rng(0).integers(0, 2, (2, 300)), 127, -127).astype(np.int8)

    def function(x):
        rows = jnp.round(x * 1000).astype(jnp.int8)
        once = lax.dot_general(rows, kernel, (((2,), (0,)), ((), ())), preferred_element_type=jnp.int32)
        extreme = jnp.where(jnp.abs(jnp.arange(600) * x[..., :1]) >= 0, 127.0, 0.0).astype(jnp.int8)
        tall = np.repeat(kernel, 300, axis=0)
        return once + lax.dot_general(extreme, tall, (((2,), (0,)), ((), ())), preferred_element_type=jnp.int32)

    x = (X / 20).astype(np.float32)
    (result,) = session_of(function).run(None, {"x": x})
    assert np.abs(result).max() > 2**21
    np.testing.assert_array_equal(result, np.asarray(function(jnp.asarray(x))))


def test_lengths_are_computed_when_the_graph_runs():
    def function(x):
        rows, tokens = x.shape[:2]
        halves = jnp.zeros((tokens // 2 + rows * tokens**2 - 1, 2))
        return jnp.concatenate([halves, x[0, : tokens - 2]]), halves

    (result,) = session_of(lambda x: function(x)[0]).run(None, {"x": X})
    assert result.shape == (4 // 2 + 3 * 16 - 1 + 2, 2)


def norm(x, axis=-1, size=2.0):
    mean = x.sum(axis=axis, keepdims=True) / size
    spread = jnp.square(x - mean).sum(axis=axis, keepdims=True) / size
    return (x - mean) * lax.rsqrt(spread + 1e-5) * jnp.array([1.5, 0.5]) + jnp.array([0.0, 1.0])


@pytest.mark.parametrize(
    ("function", "fused"),
    [
        (norm, "LayerNormalization"),
        (lambda x: norm(x, axis=0, size=3.0), ""),
        (lambda x: norm(x, size=3.0), ""),
        (lambda x: jax.nn.gelu(x, approximate=False), "Gelu"),
        (lambda x: 0.4 * x * lax.erfc(-x * np.float32(0.5**0.5)), ""),
        (lambda x: 0.5 * x * lax.erfc(-(x + 1) * np.float32(0.5**0.5)), ""),
    ],
)
def test_only_what_an_operator_computes_becomes_one(function, fused):
    session, operators = session_of(function, fusing=True)
    assert operators & {"LayerNormalization", "Gelu"} == ({fused} if fused else set())
    (result,) = session.run(None, {"x": X})
    np.testing.assert_allclose(result, function(jnp.asarray(X)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.cumsum(x, axis=1), "the primitive cumsum of jax has no conversion to ONNX"),
        (lambda x: (x[..., 0] * 3).astype(jnp.int32) & 1, "the primitive and of int32 has no conversion"),
        (lambda x: lax.round(x), "the primitive round away from zero has no conversion"),
        (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0))), "the primitive pad between elements has no"),
        (lambda x: x.astype(jnp.bfloat16) * 2, "onnxruntime does not compute in bfloat16 on a CPU"),
    ],
)
def test_what_has_no_conversion_is_named(function, message):
    with pytest.raises(InputError, match=message):
        session_of(function)
