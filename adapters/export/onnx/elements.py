"""Conversions of primitives that compute element by element, and of casts."""

from __future__ import annotations

from typing import Any

import numpy as np

from adapters.export.onnx.conversion import Equation, converts, elementwise
from adapters.export.onnx.graph import Graph, Value, constant
from backbone.errors import InputError

SAME = {  # ONNX's operator of each primitive that it has too
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sin": "Sin",
    "cos": "Cos",
    "tanh": "Tanh",
    "erf": "Erf",
    "logistic": "Sigmoid",
    "floor": "Floor",
    "ceil": "Ceil",
    "pow": "Pow",
    "max": "Max",
    "min": "Min",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}  # of booleans only
UNCHANGED = ("copy", "stop_gradient", "optimization_barrier")


def _same(operator: str) -> Any:
    def convert(graph: Graph, equation: Equation, *operands: Value) -> Value:
        return elementwise(graph, equation, operator, *operands)

    return convert


for _name, _operator in SAME.items():
    converts(_name)(_same(_operator))


@converts(*LOGICAL)
def _logical(graph: Graph, equation: Equation, *operands: Value) -> Value:
    if equation.dtype != np.bool_:
        raise equation.refused(f"of {equation.dtype}")
    return elementwise(graph, equation, LOGICAL[equation.name], *operands)


@converts(*UNCHANGED)
def _unchanged(graph: Graph, equation: Equation, *operands: Value) -> list[Value]:
    return list(operands)


@converts("div")
def _div(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    """ONNX's division of whole numbers rounds towards zero, as XLA's does."""
    return elementwise(graph, equation, "Div", x, y)


@converts("ne")
def _ne(graph: Graph, equation: Equation, x: Value, y: Value) -> Value:
    return elementwise(graph, equation, "Not", elementwise(graph, equation, "Equal", x, y))


@converts("square")
def _square(graph: Graph, equation: Equation, x: Value) -> Value:
    return elementwise(graph, equation, "Mul", x, x)


@converts("integer_pow")
def _integer_pow(graph: Graph, equation: Equation, x: Value) -> Value:
    return elementwise(graph, equation, "Pow", x, constant(np.array(equation.params["y"], x.dtype)))


@converts("rsqrt")
def _rsqrt(graph: Graph, equation: Equation, x: Value) -> Value:
    return elementwise(graph, equation, "Reciprocal", elementwise(graph, equation, "Sqrt", x))


@converts("erfc")
def _erfc(graph: Graph, equation: Equation, x: Value) -> Value:
    one = constant(np.array(1, x.dtype))
    return elementwise(graph, equation, "Sub", one, elementwise(graph, equation, "Erf", x))


@converts("log1p")
def _log1p(graph: Graph, equation: Equation, x: Value) -> Value:
    return elementwise(graph, equation, "Log", elementwise(graph, equation, "Add", x, constant(np.array(1, x.dtype))))


@converts("round")
def _round(graph: Graph, equation: Equation, x: Value) -> Value:
    if int(equation.params["rounding_method"]) != 1:
        raise equation.refused("away from zero")
    return elementwise(graph, equation, "Round", x)


@converts("clamp")
def _clamp(graph: Graph, equation: Equation, low: Value, x: Value, high: Value) -> Value:
    return elementwise(graph, equation, "Min", elementwise(graph, equation, "Max", x, low), high)


@converts("select_n")
def _select(graph: Graph, equation: Equation, which: Value, *cases: Value) -> Value:
    if which.dtype != np.bool_:
        raise equation.refused("of more than two cases")
    if equation.dtype == np.bool_:  # onnxruntime's Where takes numbers only
        chosen = elementwise(graph, equation, "And", which, cases[1])
        other = elementwise(graph, equation, "And", elementwise(graph, equation, "Not", which), cases[0])
        return elementwise(graph, equation, "Or", chosen, other)
    return elementwise(graph, equation, "Where", which, cases[1], cases[0])


@converts("convert_element_type")
def _cast(graph: Graph, equation: Equation, x: Value) -> Value:
    from onnx.helper import np_dtype_to_tensor_dtype

    if x.dtype == equation.dtype:
        return x
    require_supported(equation.dtype)
    result = elementwise(graph, equation, "Cast", x, to=np_dtype_to_tensor_dtype(equation.dtype))
    rounded = x.tensor if x.dtype == np.float32 and equation.dtype == np.int8 else ""
    return equation.result(result.tensor, result.actual, rounded=rounded)


def require_supported(dtype: np.dtype[Any], precision: str = "") -> None:
    """Raises InputError for a dtype, of weights in a precision, that onnxruntime does not compute in on a CPU."""
    if dtype.kind not in "biuf" or dtype == np.float16:
        trunk = f"the trunk is in {precision}, and " if precision else ""
        raise InputError(
            f"--format onnx: {trunk}onnxruntime does not compute in {dtype} on a CPU; give --precision float32 where "
            "the graft was validated in it too, or train it on the trunk in float32 or int8"
        )
