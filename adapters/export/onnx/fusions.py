"""Groups of nodes that are one operator of ONNX, put in their place: a norm of rows, and GELU.

jax traces both element by element. As one operator each they take one pass over memory in onnxruntime. A pattern is the
expression of the last node: (operator, operand, ...), where an operand is another pattern, a number that is expected as
a constant, or the name of a part. Sums and products match in either order. A name that stands twice is one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, TypeAlias

import numpy as np

from adapters.export.onnx.graph import Graph

Parts: TypeAlias = Mapping[str, str]  # tensor of each name in a pattern

MEAN = ("Div", ("Unsqueeze", ("ReduceSum", "x", "axes"), "axes"), "width")
CENTRED = ("Sub", "x", MEAN)
SPREAD = ("Div", ("Unsqueeze", ("ReduceSum", ("Mul", CENTRED, CENTRED), "axes"), "axes"), "width")
NORM = ("Mul", CENTRED, ("Reciprocal", ("Sqrt", ("Add", SPREAD, "epsilon"))))
LAYER_NORM = ("Add", ("Mul", NORM, "scale"), "bias")
GELU = ("Mul", ("Mul", 0.5, "x"), ("Sub", 1.0, ("Erf", ("Mul", ("Neg", "x"), 0.5**0.5))))
COMMUTES = ("Add", "Mul")


def fuse(graph: Graph) -> None:
    """Puts LayerNormalization and Gelu where their nodes stand; the nodes before them are needed no more."""
    makers = {node.output[0]: node for node in graph.nodes if len(node.output) == 1}
    graph.nodes = [_fused(graph, makers, node) if node.op_type in COMMUTES else node for node in graph.nodes]


def _fused(graph: Graph, makers: Mapping[str, Any], node: Any) -> Any:
    """Returns the one operator that computes a node's output, or the node."""
    from onnx import helper

    (output,) = node.output
    for parts in _matches(graph, makers, LAYER_NORM, output, {}):
        arrays = [graph.initializers.get(parts[name]) for name in ("axes", "width", "epsilon", "scale", "bias")]
        if _is_norm_of_rows(arrays):
            inputs = [parts[name] for name in ("x", "scale", "bias")]
            epsilon = float(graph.initializers[parts["epsilon"]])
            return helper.make_node("LayerNormalization", inputs, [output], name=output, axis=-1, epsilon=epsilon)
    for parts in _matches(graph, makers, GELU, output, {}):
        return helper.make_node("Gelu", [parts["x"]], [output], name=output)
    return node


def _is_norm_of_rows(arrays: Sequence[np.ndarray | None]) -> bool:
    """Returns whether a matched norm is one of the last axis, with a scale and a bias of its width."""
    present = [array for array in arrays if array is not None]
    if len(present) < len(arrays):
        return False
    axes, width, epsilon, scale, bias = present
    one = width.ndim == epsilon.ndim == 0
    return one and axes.tolist() == [-1] and scale.shape == bias.shape == (int(width),)


def _matches(graph: Graph, makers: Mapping[str, Any], pattern: Any, tensor: str, parts: Parts) -> Iterator[Parts]:
    """Yields the parts of every way in which the nodes above a tensor are the pattern."""
    if isinstance(pattern, str):
        if parts.get(pattern, tensor) == tensor:
            yield {**parts, pattern: tensor}
        return
    if isinstance(pattern, float):
        array = graph.initializers.get(tensor)
        if array is not None and array.ndim == 0 and np.isclose(float(array), pattern, rtol=1e-6):
            yield parts
        return
    operator, *operands = pattern
    node = makers.get(tensor)
    if node is not None and node.op_type == operator and len(node.input) == len(operands):
        for order in permutations(operands) if operator in COMMUTES else [operands]:
            yield from _all(graph, makers, order, list(node.input), parts)


def _all(
    graph: Graph, makers: Mapping[str, Any], patterns: Sequence[Any], tensors: Sequence[str], parts: Parts
) -> Iterator[Parts]:
    """Yields the parts of every way in which tensors are patterns, one each."""
    if not patterns:
        yield parts
        return
    for first in _matches(graph, makers, patterns[0], tensors[0], parts):
        yield from _all(graph, makers, patterns[1:], tensors[1:], first)
