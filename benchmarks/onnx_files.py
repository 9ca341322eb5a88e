"""An exported ONNX file in onnxruntime beside the same answer by jax, in float32 and int8, in one process.

    python -m benchmarks.onnx_files [--rounds 15]

all-MiniLM-L6-v2 below a head of four classes on mean-pooled states; random ids without padding. In each round every
side takes one turn; the first two rounds are warm-up. Speeds are medians of the ratios to jax float32's turn of that
round. Both engines use all processors that they are given. Also stated: megabytes of a file, seconds that it took to
write and to load, its operators, and the largest difference of a logit from jax in the same precision.
"""

from __future__ import annotations

import argparse
import collections
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime

from adapters.export.onnx.tracing import onnx_model
from adapters.forward import forward_program
from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification, Probe
from backbone.home import resolve_backbone
from backbone.precisions.precision import FLOAT32
from backbone.storage import in_precision, load_backbone
from benchmarks.precisions import FORWARD, drawn, in_turn
from benchmarks.results import parsed, spread, write

LABELS = ("a", "b", "c", "d")
PRECISIONS = (FLOAT32, "int8")
REFERENCE = f"jax {FLOAT32}"


@dataclass(frozen=True)
class File:
    """One exported file."""

    megabytes: float
    written_seconds: float
    loaded_seconds: float
    operators: dict[str, int]  # nodes before onnxruntime's optimisations
    largest_difference: float  # of a logit from jax in the same precision


def graft_of(precision: str) -> Graft:
    """Returns a probe with a random head on MiniLM."""
    plain = load_backbone(resolve_backbone("minilm"), precision=FLOAT32)
    trunk = plain if precision == FLOAT32 else in_precision(plain, precision)
    model = GraftModel(trunk.network, (Probe(),), Classification(), LABELS)
    kernel = np.random.default_rng(0).normal(size=(trunk.spec.width, len(LABELS))).astype(np.float32)
    head = {"kernel": kernel, "bias": np.zeros(len(LABELS), np.float32)}
    return Graft(model, {"adapter": {Probe.tag: {}}, "head": head}, trunk, trunk.preprocessing.max_tokens)


def by_jax(graft: Graft) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Returns the compiled function inputs -> logits."""
    program, params = forward_program(graft.model), jax.device_put(graft.params)
    return lambda inputs: np.asarray(program(graft.backbone.params, params, inputs["ids"], inputs["mask"]))


def by_onnxruntime(session: Any) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Returns the function inputs -> logits of a loaded file."""
    return lambda inputs: session.run(
        ["logits"], {"ids": inputs["ids"].astype(np.int64), "mask": inputs["mask"].astype(np.int64)}
    )[0]


def exported(graft: Graft, computed: Callable[[dict[str, np.ndarray]], np.ndarray]) -> tuple[Any, File]:
    """Returns a session of the graft's file, and the file's facts."""
    start = time.perf_counter()
    content = onnx_model(graft, {}).SerializeToString()
    written = time.perf_counter()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter()
    inputs = drawn(8, 32)
    difference = np.abs(by_onnxruntime(session)(inputs) - computed(inputs)).max()
    operators = collections.Counter(node.op_type for node in onnx.load_from_string(content).graph.node)
    return session, File(len(content) / 1e6, written - start, loaded - written, dict(operators), float(difference))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="measured turns of each side and shape")
    options, provenance = parsed(parser)
    sides: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {}
    files = {}
    for precision in PRECISIONS:
        graft = graft_of(precision)
        sides[f"jax {precision}"] = by_jax(graft)
        session, files[precision] = exported(graft, sides[f"jax {precision}"])
        sides[f"onnxruntime {precision}"] = by_onnxruntime(session)
    shapes: dict[str, Any] = {}
    for rows, tokens in FORWARD:
        inputs = drawn(rows, tokens)
        turns = {name: (lambda run=run, inputs=inputs: run(inputs)) for name, run in sides.items()}
        seconds = in_turn(turns, options.rounds)
        shapes[f"{rows}x{tokens}"] = {
            name: {
                "seconds": spread(values),
                "speed": float(np.median(np.divide(seconds[REFERENCE], values))),
                "raw": values,
            }
            for name, values in seconds.items()
        }
        print(
            f"{rows}x{tokens}", *(f"{name} x{side['speed']:.2f}" for name, side in shapes[f"{rows}x{tokens}"].items())
        )
    mean = {
        name: math.exp(float(np.mean([math.log(shape[name]["speed"]) for shape in shapes.values()]))) for name in sides
    }
    print("mean", *(f"{name} x{value:.2f}" for name, value in mean.items()))
    facts = {name: asdict(file) for name, file in files.items()}
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    print(write("onnx_files", {"files": facts, "versions": versions, "shapes": shapes, "mean_speed": mean}, provenance))


if __name__ == "__main__":
    main()
