"""One request of 16 tokens in process: text to label, by a graft, by a server's runtime, and by onnxruntime.

    python -m benchmarks.single_request [--tokens 16] [--repeats 300]

MiniLM below a head of four classes on mean-pooled states. Every side is given a text, tokenizes it with the same
tokenizer, and returns the name of a label. `predict` is `Graft.predict`; `runtime` is `Runtime.predict` with the
server's defaults. onnxruntime runs the graft's exported file in float32, the exported file in int8, and the float32
file after its own dynamic quantization by channel. Sides alternate, forwards and backwards, after one warm-up of each.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from adapters.export.onnx.tracing import onnx_model
from adapters.graft import Graft
from backbone.home import use_compilation_cache
from backbone.precisions.precision import FLOAT32
from benchmarks.onnx_files import LABELS, graft_of
from benchmarks.results import parsed, write
from benchmarks.serving import texts, timed
from serving.bank import Envelope, Group
from serving.runtime import Runtime

PRECISIONS = (FLOAT32, "bfloat16", "int8")
ONNX = (FLOAT32, "int8")  # precisions of an exported file

Side = Callable[[], object]


def of_graft(graft: Graft, text: str) -> Side:
    return lambda: graft.predict([text])[0].label


def of_runtime(stack: ExitStack, graft: Graft, text: str, tokens: int) -> Side:
    """Returns the request to a runtime with the waits and batches of `topgraft serve`."""
    group = Group(graft.model.methods, slots=1)
    sizes = {"buckets": (tokens,), "batch_sizes": (1, 8, 32)}
    runtime = stack.enter_context(Runtime(graft.backbone, Envelope((group,), len(LABELS)), **sizes))  # type: ignore[arg-type]
    runtime.load("task", graft)
    return lambda: runtime.predict([("task", text)])[0].label


def of_onnx(content: bytes, graft: Graft, text: str) -> Side:
    """Returns the request to onnxruntime."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    encode = graft.backbone.preprocessing.encode

    def run() -> str:
        (ids,) = encode([text], graft.max_tokens)
        inputs = {"ids": np.asarray(ids, np.int64)[None], "mask": np.ones((1, len(ids)), np.int64)}
        (logits,) = session.run(["logits"], inputs)
        return LABELS[int(logits[0].argmax())]

    return run


def quantized(content: bytes) -> bytes:
    """Returns a float32 file after onnxruntime's dynamic quantization, by channel."""
    with tempfile.TemporaryDirectory() as name:
        plain, small = Path(name) / "plain.onnx", Path(name) / "small.onnx"
        plain.write_bytes(content)
        quantize_dynamic(plain, small, per_channel=True, weight_type=QuantType.QInt8)
        return small.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=300)
    options, provenance = parsed(parser)
    use_compilation_cache()
    sides: dict[str, Side] = {}
    with ExitStack() as stack:
        for precision in PRECISIONS:
            graft = graft_of(precision)
            (text,) = texts(graft.backbone, 1, options.tokens)
            sides[f"predict, {precision}"] = of_graft(graft, text)
            sides[f"runtime, {precision}"] = of_runtime(stack, graft, text, options.tokens)
            if precision in ONNX:
                content = onnx_model(graft, {}).SerializeToString()
                sides[f"onnxruntime, {precision}"] = of_onnx(content, graft, text)
                if precision == FLOAT32:
                    sides["onnxruntime, int8 of its own"] = of_onnx(quantized(content), graft, text)
        answers = {name: str(run()) for name, run in sides.items()}
        result: dict[str, Any] = timed(sides, options.repeats)
    for name, side in result.items():
        print(f"{name}: p50 {side['ms']['median']:.2f} ms, lowest {side['ms']['low']:.2f}")
    facts = {"tokens": options.tokens, "answers": answers, "onnxruntime": onnxruntime.__version__}
    print(write("single_request", facts | {"sides": result}, provenance))


if __name__ == "__main__":
    main()
