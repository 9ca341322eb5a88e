"""Conversions of primitives that move values: broadcasts, reshapes, slices, gathers."""

from __future__ import annotations

import numpy as np

from adapters.export.onnx.conversion import Equation, converts
from adapters.export.onnx.graph import Graph, Shape, Value, is_one, is_static, same_shape


@converts("broadcast_in_dim")
def _broadcast(graph: Graph, equation: Equation, x: Value, *lengths: Value) -> Value:
    """Inserts axes where they are missing; the lengths come when a node needs them."""
    places = equation.params["broadcast_dimensions"]
    places = places[len(places) - len(x.actual) :]
    rank = len(equation.shape)
    first = min(places, default=rank)
    missing = [axis - first for axis in range(first, rank) if axis not in places]
    actual = list(x.actual)
    for axis in missing:
        actual.insert(axis, 1)
    if x.array is not None:
        array = x.array.reshape(actual)
        return Value(equation.shape, x.dtype, array.shape, array=array if missing else x.array, weight=x.weight)
    if not missing:
        return equation.result(x.tensor, x.actual, rounded=x.rounded)
    places = tuple(axis - len(actual) for axis in missing)
    return equation.result(graph.one("Unsqueeze", x.tensor, graph.lengths(places)), tuple(actual))


@converts("reshape")
def _reshape(graph: Graph, equation: Equation, x: Value, *lengths: Value) -> Value:
    if equation.params["dimensions"] is not None:
        raise equation.refused("with a permutation")
    if same_shape(x.shape, equation.shape):
        return x
    target = _target(x.shape, equation.shape)
    return equation.result(graph.one("Reshape", graph.whole(x), graph.lengths(target)))


def _target(source: Shape, shape: Shape) -> Shape:
    """Returns what ONNX's Reshape reads: 0 for the input's own length, -1 for the length that remains."""
    kept = [a is b or bool(a == b) for a, b in zip(source, shape, strict=False)] + [False] * len(shape)
    target = [dim if is_static((dim,)) else 0 if keep else dim for dim, keep in zip(shape, kept, strict=False)]
    unknown = [axis for axis, dim in enumerate(target) if not is_static((dim,))]
    if unknown:
        target[unknown[-1]] = -1
    return tuple(target)


@converts("squeeze")
def _squeeze(graph: Graph, equation: Equation, x: Value) -> Value:
    axes = tuple(int(axis) for axis in equation.params["dimensions"])
    return equation.result(graph.one("Squeeze", graph.whole(x), graph.lengths(axes)))


@converts("transpose")
def _transpose(graph: Graph, equation: Equation, x: Value) -> Value:
    return equation.result(graph.one("Transpose", graph.whole(x), perm=list(map(int, equation.params["permutation"]))))


@converts("concatenate")
def _concatenate(graph: Graph, equation: Equation, *parts: Value) -> Value:
    return equation.result(graph.one("Concat", *map(graph.whole, parts), axis=int(equation.params["dimension"])))


@converts("split")
def _split(graph: Graph, equation: Equation, x: Value) -> list[Value]:
    sizes, axis = tuple(equation.params["sizes"]), int(equation.params["axis"])
    names = graph.add("Split", graph.whole(x), graph.lengths(sizes), count=len(sizes), axis=axis)
    return [Value(shape, x.dtype, shape, name) for shape, name in zip(equation.shapes, names, strict=True)]


@converts("slice")
def _slice(graph: Graph, equation: Equation, x: Value) -> Value:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    axes = [
        axis
        for axis, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True))
        if not (same_shape((start, limit), (0, x.shape[axis])) and is_one(stride))
    ]
    if not axes:
        return x
    bounds = [graph.lengths(tuple(part[axis] for axis in axes)) for part in (starts, limits)]
    places, steps = graph.lengths(tuple(axes)), graph.lengths(tuple(strides[axis] for axis in axes))
    return equation.result(graph.one("Slice", graph.whole(x), *bounds, places, steps))


@converts("rev")
def _reverse(graph: Graph, equation: Equation, x: Value) -> Value:
    axes = tuple(int(axis) for axis in equation.params["dimensions"])
    last, first, back = ((number,) * len(axes) for number in (-1, np.iinfo(np.int64).min, -1))
    parts = map(graph.lengths, (last, first, axes, back))
    return equation.result(graph.one("Slice", graph.whole(x), *parts))


@converts("pad")
def _pad(graph: Graph, equation: Equation, x: Value, filling: Value) -> Value:
    low, high, between = zip(*equation.params["padding_config"], strict=True)
    if not same_shape(between, (0,) * len(between)):
        raise equation.refused("between elements")
    if same_shape((*low, *high), (0,) * (2 * len(low))):
        return x
    return equation.result(graph.one("Pad", graph.whole(x), graph.lengths((*low, *high)), graph.whole(filling)))


@converts("iota")
def _iota(graph: Graph, equation: Equation, *lengths: Value) -> Value:
    axis = int(equation.params["dimension"])
    dim, rest = equation.shape[axis], (1,) * (len(equation.shape) - axis - 1)
    if is_static((dim,)):
        array = np.arange(dim, dtype=equation.dtype).reshape(-1, *rest)
        return Value(equation.shape, equation.dtype, array.shape, array=array)
    end = graph.one("Squeeze", graph.length(dim))
    zero, step = (graph.initializer(np.array(number, np.int64)) for number in (0, 1))
    tensor = _as_dtype(graph, graph.one("Range", zero, end, step), equation)
    if rest:
        tensor = graph.one("Unsqueeze", tensor, graph.lengths(tuple(range(1, 1 + len(rest)))))
    return equation.result(tensor, (dim, *rest))


@converts("dim_as_value")
def _length(graph: Graph, equation: Equation) -> Value:
    return equation.result(_as_dtype(graph, graph.one("Squeeze", graph.length(equation.params["dim"])), equation))


def _as_dtype(graph: Graph, tensor: str, equation: Equation) -> str:
    """Returns a tensor int64 in the dtype of the result."""
    from onnx.helper import np_dtype_to_tensor_dtype

    return graph.one("Cast", tensor, to=np_dtype_to_tensor_dtype(equation.dtype))


@converts("gather")
def _gather(graph: Graph, equation: Equation, x: Value, places: Value) -> Value:
    """Takes whole slices at places [..., 1] along one axis, or one part of x from a place [n] on."""
    numbers, sizes = equation.params["dimension_numbers"], tuple(equation.params["slice_sizes"])
    axes, collapsed = tuple(numbers.start_index_map), tuple(numbers.collapsed_slice_dims)
    complete = [a for a, (size, dim) in enumerate(zip(sizes, x.shape, strict=True)) if same_shape((size,), (dim,))]
    if numbers.operand_batching_dims or not {*range(len(sizes))} - {*axes} <= {*complete}:
        raise equation.refused("of parts along several axes")
    if len(places.shape) == 1:
        return _part(graph, equation, x, places)
    batch = [axis for axis in range(len(equation.shape)) if axis not in numbers.offset_dims]
    expected = list(range(axes[0], axes[0] + len(places.shape) - 1))
    if len(axes) != 1 or collapsed != axes or not is_one(sizes[axes[0]]) or batch != expected:
        raise equation.refused("of other than whole slices along one axis")
    indices = graph.one("Squeeze", graph.whole(places), graph.lengths((len(places.shape) - 1,)))
    return equation.result(graph.one("Gather", graph.whole(x), indices, axis=int(axes[0])))


def _part(graph: Graph, equation: Equation, x: Value, start: Value) -> Value:
    """Takes one part of x: from `start`, whole numbers [n], on along the axes of a gather."""
    from onnx import TensorProto

    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axes, collapsed = tuple(numbers.start_index_map), tuple(numbers.collapsed_slice_dims)
    lengths = tuple(sizes[axis] for axis in axes)
    if start.array is not None:
        first = tuple(map(int, start.constant()))
        starts, ends = graph.lengths(first), graph.lengths(tuple(a + b for a, b in zip(first, lengths, strict=True)))
    else:
        starts = graph.one("Cast", graph.whole(start), to=TensorProto.INT64)
        ends = graph.one("Add", starts, graph.lengths(lengths))
    tensor = graph.one("Slice", graph.whole(x), starts, ends, graph.lengths(tuple(map(int, axes))))
    if collapsed:
        tensor = graph.one("Squeeze", tensor, graph.lengths(tuple(map(int, collapsed))))
    return equation.result(tensor)
