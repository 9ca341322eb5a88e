"""Conversions of primitives that sum: products of matrices, reductions, the largest of a row.

int8 products become MatMulInteger on unsigned numbers: both factors are raised by 128, and the operator is given that
zero point, so the int32 sums are the same. onnxruntime's kernels for a signed first factor are some thirty times slower
on x86, and those for an unsigned and a signed one overflow silently on processors without VNNI.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adapters.export.onnx.conversion import Equation, converts
from adapters.export.onnx.graph import Graph, Value

RAISED = 128  # what turns int8 into uint8

REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}
LOGICAL = {"reduce_or": "ReduceMax", "reduce_and": "ReduceMin"}


@converts(*REDUCTIONS)
def _reduce(graph: Graph, equation: Equation, x: Value) -> Value:
    axes = graph.lengths(tuple(int(axis) - len(x.shape) for axis in equation.params["axes"]))
    return equation.result(graph.one(REDUCTIONS[equation.name], graph.whole(x), axes, keepdims=0))


@converts(*LOGICAL)
def _reduce_logical(graph: Graph, equation: Equation, x: Value) -> Value:
    from onnx import TensorProto

    axes = graph.lengths(tuple(int(axis) for axis in equation.params["axes"]))
    numbers = graph.one("Cast", graph.whole(x), to=TensorProto.INT32)
    result = graph.one(LOGICAL[equation.name], numbers, axes, keepdims=0)
    return equation.result(graph.one("Cast", result, to=TensorProto.BOOL))


@converts("argmax")
def _argmax(graph: Graph, equation: Equation, x: Value) -> Value:
    from onnx.helper import np_dtype_to_tensor_dtype

    (axis,) = equation.params["axes"]
    place = graph.one("ArgMax", graph.whole(x), axis=int(axis), keepdims=0)
    return equation.result(graph.one("Cast", place, to=np_dtype_to_tensor_dtype(equation.dtype)))


@converts("top_k")
def _top_k(graph: Graph, equation: Equation, x: Value) -> list[Value]:
    from onnx.helper import np_dtype_to_tensor_dtype

    axis = int(equation.params.get("axis", len(x.shape) - 1))
    values, places = graph.add("TopK", graph.whole(x), graph.lengths((equation.params["k"],)), count=2, axis=axis)
    places = graph.one("Cast", places, to=np_dtype_to_tensor_dtype(equation.dtypes[1]))
    names = (values, places)
    return [Value(s, d, s, n) for s, d, n in zip(equation.shapes, equation.dtypes, names, strict=True)]


@converts("dot_general")
def _dot(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    """Brings the factors to [batch..., free, contracted] and [batch..., contracted, free], and multiplies them."""
    (summed_x, summed_y), (batch_x, batch_y) = equation.params["dimension_numbers"]
    if x.dtype == y.dtype == np.int8:
        x, y = _raised(graph, x), _raised(graph, y)
    elif x.dtype.kind != "f":
        raise equation.refused(f"of {x.dtype} and {y.dtype}")
    if (tuple(summed_x), tuple(summed_y)) == ((len(x.shape) - 1,), (0,)) and len(y.shape) == 2 <= len(x.shape):
        return equation.result(_product(graph, x.dtype, graph.whole(x), graph.whole(y)))
    free_x, free_y = (
        [axis for axis in range(len(value.shape)) if axis not in (*summed, *batch)]
        for value, summed, batch in ((x, summed_x, batch_x), (y, summed_y, batch_y))
    )
    left = _arranged(graph, x, (batch_x, free_x, summed_x))
    right = _arranged(graph, y, (batch_y, summed_y, free_y))
    tensor = _product(graph, x.dtype, left, right)
    if len(free_x) == len(free_y) == 1:
        return equation.result(tensor)
    return equation.result(graph.one("Reshape", tensor, graph.lengths(equation.shape)))


def _arranged(graph: Graph, value: Value, groups: tuple[Sequence[int], Sequence[int], Sequence[int]]) -> str:
    """Returns a factor with the axes of the groups in turn; each of the last two groups becomes one axis."""
    batch, *others = groups
    order = [int(axis) for group in groups for axis in group]
    tensor = graph.whole(value)
    if order != sorted(order):
        tensor = graph.one("Transpose", tensor, perm=order)
    if all(len(group) == 1 for group in others):
        return tensor
    merged = (math.prod(value.shape[axis] for axis in group) for group in others)
    return graph.one("Reshape", tensor, graph.lengths((*(value.shape[axis] for axis in batch), *merged)))


def _raised(graph: Graph, value: Value) -> Value:
    """Returns an int8 factor as uint8, every number raised by `RAISED`."""
    if value.array is not None:
        array = (value.array.astype(np.int16) + RAISED).astype(np.uint8)
        return Value(value.shape, array.dtype, value.actual, array=array, weight=value.weight)
    from onnx import TensorProto

    numbers = value.rounded or graph.one("Cast", value.tensor, to=TensorProto.FLOAT)
    lifted = graph.one("Add", numbers, graph.initializer(np.array(RAISED, np.float32)))
    tensor = graph.one("Cast", lifted, to=TensorProto.UINT8)
    return Value(value.shape, np.dtype(np.uint8), value.actual, tensor)


def _product(graph: Graph, dtype: np.dtype[Any], left: str, right: str) -> str:
    """Returns the product of two tensors; those of uint8 are raised."""
    if dtype != np.uint8:
        return graph.one("MatMul", left, right)
    zero = graph.initializer(np.array(RAISED, np.uint8))
    return graph.one("MatMulInteger", left, right, zero, zero)
