"""A graph of ONNX nodes while it is built: values, initializers, and lengths that are known only when it runs.

A `Value` is what one variable of a jaxpr holds. A constant stays an array until a node reads it: then it becomes an
initializer, with the dotted name of the weight it was made from. A value that was broadcast keeps its smaller array,
of its `actual` shape, as long as its readers broadcast by themselves; `whole` expands it for the others. Axes that the
actual shape lacks are at the front.

Two nodes with the same operator, inputs and attributes are one. Nodes that no output needs are left out at the end.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from backbone.errors import InputError

OPSET = 20  # version of the operators
IR_VERSION = 10  # version of the file format that came with it
PRODUCER = "topgraft"
MAX_BYTES = 2**31 - 2**20  # bytes of a file of Protocol Buffers, less some for the nodes

Dim: TypeAlias = Any  # int, or an expression of jax.export in the symbols of the inputs
Shape: TypeAlias = tuple[Dim, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """What a variable holds: a constant (`array`), or a tensor of the graph (`tensor`)."""

    shape: Shape
    dtype: np.dtype[Any]
    actual: Shape  # its shape before it is broadcast to `shape`
    tensor: str = ""  # name in the graph; "" for a constant
    array: np.ndarray | None = None  # values of a constant, of the actual shape
    weight: str = ""  # dotted path of the weight that a constant is or was made from
    rounded: str = ""  # the tensor of whole numbers in float32 that an int8 tensor was cast from

    @property
    def is_whole(self) -> bool:
        """Returns whether nothing remains to be broadcast."""
        return same_shape(self.actual, self.shape)

    def constant(self) -> np.ndarray:
        """Returns the array of a constant in its full, static shape."""
        assert self.array is not None
        return np.broadcast_to(self.array, self.shape)


def constant(array: Any, weight: str = "") -> Value:
    """Returns the value of an array."""
    array = np.asarray(array)
    return Value(array.shape, array.dtype, array.shape, array=array, weight=weight)


def is_static(shape: Shape) -> bool:
    """Returns whether every length is a number."""
    return all(isinstance(dim, int | np.integer) for dim in shape)


def is_one(dim: Dim) -> bool:
    """Returns whether a length is the number 1."""
    return isinstance(dim, int | np.integer) and dim == 1


def same_shape(one: Shape, other: Shape) -> bool:
    """Returns whether two shapes are known to be equal."""
    return len(one) == len(other) and all(a is b or bool(a == b) for a, b in zip(one, other, strict=True))


def joined(shapes: Sequence[Shape]) -> Shape:
    """Returns the shape to which ONNX broadcasts these."""
    rank = max(map(len, shapes))
    columns = zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    return tuple(next((dim for dim in column if not is_one(dim)), 1) for column in columns)


@dataclass
class Graph:
    """Nodes and initializers, and the tensor that holds each symbol of the lengths."""

    symbols: Mapping[str, str] = field(default_factory=dict)  # tensor int64 [1] of each symbol
    nodes: list[Any] = field(default_factory=list)
    initializers: dict[str, np.ndarray] = field(default_factory=dict)
    _tensors: dict[Any, tuple[str, ...]] = field(default_factory=dict)  # outputs of a node, by what it computes
    _constants: dict[Any, str] = field(default_factory=dict)  # initializer of a constant, by its content

    def add(self, operator: str, *inputs: str, count: int = 1, **attributes: Any) -> tuple[str, ...]:
        """Adds a node with `count` outputs and returns their names; those of an equal node where there is one."""
        from onnx import helper

        key = (operator, inputs, count, repr(sorted(attributes.items())))
        if key not in self._tensors:
            names = tuple(f"{operator.lower()}_{len(self.nodes)}{f'.{n}' if n else ''}" for n in range(count))
            self.nodes.append(helper.make_node(operator, inputs, names, name=names[0], **attributes))
            self._tensors[key] = names
        return self._tensors[key]

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output and returns its name."""
        (name,) = self.add(operator, *inputs, **attributes)
        return name

    def output(self, value: Value, name: str) -> None:
        """Gives the whole of a value the name of an output."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [self.whole(value)], [name], name=name))

    def initializer(self, array: Any, weight: str = "") -> str:
        """Returns the name of an array in the graph; equal arrays have one name."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._constants:
            stem, name = weight or "constant", weight or f"constant.{len(self.initializers)}"
            while name in self.initializers:
                name = f"{stem}.{len(self.initializers)}"
            self.initializers[name], self._constants[key] = array, name
        return self._constants[key]

    def tensor(self, value: Value) -> str:
        """Returns the tensor of a value in its actual shape, for nodes that broadcast."""
        return value.tensor if value.array is None else self.initializer(value.array, value.weight)

    def whole(self, value: Value) -> str:
        """Returns the tensor of a value in its full shape."""
        if value.is_whole:
            return self.tensor(value)
        if value.array is not None and is_static(value.shape):
            return self.initializer(value.constant(), value.weight)
        return self.one("Expand", self.tensor(value), self.lengths(value.shape))

    def lengths(self, shape: Shape) -> str:
        """Returns a tensor int64 [n] of the lengths of a shape."""
        if is_static(shape):
            return self.initializer(np.array(shape, np.int64))
        parts = [self.length(dim) for dim in shape]
        return parts[0] if len(parts) == 1 else self.one("Concat", *parts, axis=0)

    def length(self, dim: Dim) -> str:
        """Returns a tensor int64 [1] of a length, which is a number or an expression such as `b*t` or `max(t, 8)`."""
        if isinstance(dim, int | np.integer):
            return self.initializer(np.array([dim], np.int64))
        return self._term(ast.parse(str(dim).replace("^", "**"), mode="eval").body)

    def _term(self, term: ast.expr) -> str:
        """Returns a tensor int64 [1] of an expression in the notation of `jax.export.symbolic_shape`."""
        match term:
            case ast.Constant(value=int(number)):
                return self.initializer(np.array([number], np.int64))
            case ast.Name(id=symbol):
                return self.symbols[symbol]
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return self.one("Neg", self._term(inner))
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))):
                return math_chain(self, "Mul", [self._term(left)] * power)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in SIGNS:
                return self.one(SIGNS[type(sign)], self._term(left), self._term(right))
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in CALLS:
                return CALLS[name](self, [self._term(argument) for argument in arguments])
        raise InputError(f"--format onnx: the length {ast.unparse(term)} has no conversion to ONNX")


SIGNS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}


def math_chain(graph: Graph, operator: str, tensors: Sequence[str]) -> str:
    """Returns a tensor joined of several by an operator of two inputs."""
    result = tensors[0]
    for other in tensors[1:]:
        result = graph.one(operator, result, other)
    return result


def _floor_division(graph: Graph, terms: list[str]) -> str:
    """Divides lengths and rounds down; ONNX's division rounds towards zero."""
    dividend, divisor = terms
    return graph.one("Div", graph.one("Sub", dividend, graph.one("Mod", dividend, divisor)), divisor)


CALLS: Mapping[str, Callable[[Graph, list[str]], str]] = {
    "floordiv": _floor_division,
    "mod": lambda graph, terms: graph.one("Mod", *terms),
    "max": lambda graph, terms: graph.one("Max", *terms),
    "min": lambda graph, terms: graph.one("Min", *terms),
}


def model_of(graph: Graph, inputs: Sequence[Any], outputs: Mapping[str, Any], about: Mapping[str, str]) -> Any:
    """Returns the `onnx.ModelProto` of what `outputs` (value info by name) need, checked by onnx.

    Raises InputError where it exceeds the two gigabytes of one file.
    """
    import onnx
    from onnx import helper, numpy_helper

    needed, kept = set(outputs), []
    for node in reversed(graph.nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    arrays = {name: array for name, array in graph.initializers.items() if name in needed}
    size = math.fsum(array.nbytes for array in arrays.values())
    if size > MAX_BYTES:
        raise InputError(f"--format onnx: {size / 1e9:.1f} GB of weights, and one file holds 2; use --precision int8")
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    body = helper.make_graph(kept[::-1], PRODUCER, inputs, list(outputs.values()), tensors)
    model = helper.make_model(
        body, producer_name=PRODUCER, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model)
    return model
