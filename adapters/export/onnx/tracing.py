"""The answers of a graft, traced at every number of rows and tokens at once.

Lengths are symbols of `jax.export`: rows (or examples of two rows each) and tokens. What the network decides by
comparing lengths is decided here by constraints, so that the one graph is right for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from adapters.export.answering import answer, by_path, outputs_of, weights_of
from adapters.export.onnx import elements, layout, products  # noqa: F401  # they fill the table
from adapters.export.onnx.conversion import convert
from adapters.export.onnx.elements import require_supported
from adapters.export.onnx.fusions import fuse
from adapters.export.onnx.graph import Graph, Shape, Value, constant, model_of
from adapters.graft import Graft
from backbone.network.attention import PLAIN_KEYS
from backbone.spec import EncoderSpec
from backbone.trees import Params

IDS, SEGMENTS, MASK, PIXELS = "ids", "segments", "mask", "pixels"  # names of the inputs
BATCH, TOKENS = "batch", "tokens"  # symbols of the lengths


@dataclass(frozen=True)
class Input:
    """An input of the file."""

    name: str
    shape: Shape  # lengths, in the symbols of the trace
    stored: str  # dtype in the file
    traced: str  # dtype in the trace


def inputs_of(graft: Graft) -> tuple[Input, ...]:
    """Returns the inputs: ids, mask and, for pairs in one row, segments; for a backbone for images, pixels alone."""
    model, spec = graft.model, graft.backbone.spec
    shortest, longest = _traced_lengths(spec)
    constraints = [f"{BATCH} >= 2", f"{TOKENS} >= {shortest}", f"{TOKENS} <= {longest}"]
    rows, tokens = export.symbolic_shape(f"{BATCH}, {TOKENS}", constraints=constraints)
    if spec.image is not None:
        side = spec.image.size
        return (Input(PIXELS, (rows, side, side, spec.image.channels), "uint8", "uint8"),)
    shape = (model.sides * rows, tokens)
    segments = (Input(SEGMENTS, shape, "int64", "int32"),) if model.head.pair == "cross" and spec.segments > 1 else ()
    return (Input(IDS, shape, "int64", "int32"), *segments, Input(MASK, shape, "int64", "bool"))


def _traced_lengths(spec: EncoderSpec) -> tuple[int, int]:
    """Returns the bounds of the tokens in the trace, whose graph is right beyond them too.

    From the lower one on every window that can be shorter than a row is so: in shorter rows it hides nothing. Up to the
    upper one attention is plain, also where an adapter prepends keys.
    """
    shortest = max((window + 2 for window in spec.windows if 0 < window < spec.positions - 1), default=1)
    return shortest, max(shortest, min(spec.positions, PLAIN_KEYS // 2))


def onnx_model(graft: Graft, about: Mapping[str, str]) -> Any:
    """Returns the `onnx.ModelProto` of a graft; `about` are the notes in it.

    Raises InputError for a primitive or a dtype without a conversion, and for weights that do not fit into one file.
    """
    from onnx import helper

    inputs, weights = inputs_of(graft), weights_of(graft)
    named = {path: np.asarray(leaf) for path, leaf in by_path(weights).items()}
    for array in named.values():
        require_supported(array.dtype, graft.backbone.precision)
    shapes = [jax.ShapeDtypeStruct(item.shape, item.traced) for item in inputs]  # type: ignore[no-untyped-call]
    trace = jax.make_jaxpr(_function(graft, inputs), return_shape=True)
    traced, results = trace(weights, *shapes)
    graph = Graph()
    graph.symbols = _symbols(graph, inputs[0], graft.model.sides)
    operands = [*(constant(array, path) for path, array in named.items()), *(_read(graph, item) for item in inputs)]
    values = convert(graph, traced.jaxpr, traced.consts, operands)
    fuse(graph)
    infos = {}
    for name, value in zip(sorted(results), values, strict=True):  # jax flattens a dict in the order of its keys
        graph.output(value, name)
        infos[name] = helper.make_tensor_value_info(name, _element(value.dtype), list(map(_shown, value.shape)))
    return model_of(graph, [_info(item) for item in inputs], {name: infos[name] for name in outputs_of(graft)}, about)


def _function(graft: Graft, inputs: Sequence[Input]) -> Callable[..., dict[str, jax.Array]]:
    """Returns the function (weights, *inputs) -> outputs by name."""

    def answers(weights: Params, *arrays: jax.Array) -> dict[str, jax.Array]:
        given = {item.name: array for item, array in zip(inputs, arrays, strict=True)}
        if PIXELS in given:
            rows = _patches(given[PIXELS], graft)
            given = {IDS: rows, MASK: jnp.ones(rows.shape[:2], bool)}
        return answer(graft, weights, given)

    return answers


def _patches(pixels: jax.Array, graft: Graft) -> jax.Array:
    """Returns the rows uint8 [B,T,P] of images uint8 [B,S,S,C], as `backbone.images.patches` does of one."""
    image = graft.backbone.spec.image
    assert image is not None
    side, patch, count = image.size // image.patch, image.patch, pixels.shape[0]
    cut = pixels.reshape(count, side, patch, side, patch, image.channels).transpose(0, 1, 3, 2, 4, 5)
    empty = jnp.zeros((count, image.special, image.patch_width), jnp.uint8)
    return jnp.concatenate([empty, cut.reshape(count, side**2, image.patch_width)], axis=1)


def _symbols(graph: Graph, first: Input, sides: int) -> dict[str, str]:
    """Returns the tensor of each symbol of the first input's lengths."""
    rows = graph.one("Shape", first.name, start=0, end=1)
    symbols = {BATCH: graph.one("Div", rows, graph.initializer(np.array([sides], np.int64))) if sides > 1 else rows}
    return symbols if first.name == PIXELS else {**symbols, TOKENS: graph.one("Shape", first.name, start=1, end=2)}


def _read(graph: Graph, item: Input) -> Value:
    """Returns an input in the dtype of the trace."""
    kind = np.dtype(item.traced)
    tensor = item.name if item.stored == item.traced else graph.one("Cast", item.name, to=_element(kind))
    return Value(item.shape, kind, item.shape, tensor)


def _info(item: Input) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(item.name, _element(np.dtype(item.stored)), list(map(_shown, item.shape)))


def _element(dtype: np.dtype[Any]) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _shown(dim: Any) -> int | str:
    """Returns a length as the file holds it: a number, or the name of an unknown one."""
    return dim if isinstance(dim, int) else str(dim)
