"""A traced function as nodes: the equations of a jaxpr in turn, each by the conversion of its primitive.

    @converts("neg")
    def _neg(graph, equation, x): return elementwise(graph, equation, "Neg", x)

What depends on constants alone is computed here, by jax, and never becomes a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.extend import core

from adapters.export.onnx.graph import Graph, Shape, Value, constant, is_static, joined
from backbone.errors import InputError

# calls whose body is inlined, with the parameter that holds it
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
}
NEVER_COMPUTED = ("broadcast_in_dim", "dim_as_value")  # of constants too: a broadcast waits, a length is unknown


@dataclass(frozen=True)
class Equation:
    """One equation of a jaxpr: a primitive with its parameters, and what it gives."""

    name: str
    params: Mapping[str, Any]
    shapes: tuple[Shape, ...]  # shapes of the results
    dtypes: tuple[np.dtype[Any], ...]  # dtypes of the results

    @property
    def shape(self) -> Shape:
        """Returns the shape of the first result."""
        return self.shapes[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Returns the dtype of the first result."""
        return self.dtypes[0]

    def result(self, tensor: str, actual: Shape | None = None, **fields: Any) -> Value:
        """Returns the first result as a tensor of the graph."""
        return Value(self.shape, self.dtype, self.shape if actual is None else actual, tensor, **fields)

    def refused(self, what: str) -> InputError:
        """Returns the error about a use of the primitive that has no conversion."""
        return InputError(f"--format onnx: the primitive {self.name} {what} has no conversion to ONNX")


Conversion: TypeAlias = Callable[..., "Value | list[Value]"]
CONVERSIONS: dict[str, Conversion] = {}  # conversion of each primitive, by its name in jaxprs


def converts(*names: str) -> Callable[[Conversion], Conversion]:
    """Registers a conversion (graph, equation, *operands) -> value or values, for primitives."""

    def register(conversion: Conversion) -> Conversion:
        CONVERSIONS.update(dict.fromkeys(names, conversion))
        return conversion

    return register


def elementwise(graph: Graph, equation: Equation, operator: str, *operands: Value, **attributes: Any) -> Value:
    """Returns the result of an operator that broadcasts its operands."""
    tensor = graph.one(operator, *map(graph.tensor, operands), **attributes)
    return equation.result(tensor, joined([operand.actual for operand in operands]))


def convert(graph: Graph, jaxpr: Any, constants: Sequence[Any], operands: Sequence[Value]) -> list[Value]:
    """Adds the nodes of an open jaxpr to a graph and returns its results.

    Raises InputError that names a primitive without a conversion.
    """
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(constant, constants), strict=True))
    values.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Value:
        if not isinstance(atom, core.Literal):
            return values[atom]
        aval: Any = atom.aval
        return constant(np.asarray(atom.val, aval.dtype))

    for equation in jaxpr.eqns:
        results = _results(graph, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _results(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
    """Returns the results of one equation."""
    name = equation.primitive.name
    if name in CALLS:
        body = equation.params[CALLS[name]]
        return convert(graph, getattr(body, "jaxpr", body), getattr(body, "consts", ()), operands)
    avals = [variable.aval for variable in equation.outvars]
    shapes, dtypes = tuple(aval.shape for aval in avals), tuple(aval.dtype for aval in avals)
    static = all(is_static(shape) for shape in (*shapes, *(operand.shape for operand in operands)))
    if static and name not in NEVER_COMPUTED and all(operand.array is not None for operand in operands):
        return _computed(equation, operands)
    if name not in CONVERSIONS:
        raise InputError(
            f"--format onnx: the primitive {name} of jax has no conversion to ONNX; export with --format jax, or add "
            "the conversion to adapters/export/onnx"
        )
    results = CONVERSIONS[name](graph, Equation(name, equation.params, shapes, dtypes), *operands)
    return results if isinstance(results, list) else [results]


def _computed(equation: Any, operands: Sequence[Value]) -> list[Value]:
    """Returns the results of an equation of constants, with the name of the weight that they come from."""
    arrays = [jax.numpy.asarray(operand.constant()) for operand in operands]
    results = equation.primitive.bind(*arrays, **equation.params)
    weight = next((operand.weight for operand in operands if operand.weight), "")
    return [constant(r, weight) for r in (results if equation.primitive.multiple_results else [results])]
