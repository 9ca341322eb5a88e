"""Frozen forward passes of a transformers model by others' engines, each at its best; `benchmarks/precisions.py` asks.

    {"cmd": "versions"}                                        versions of the engines that are installed
    {"cmd": "pass", "side": "openvino bfloat16", "rows": 32, "tokens": 16}     seconds of one pass

Random ids without padding; the last states come out. PyTorch runs the whole model in bfloat16. OpenVINO converts the
model and is told to compute in bfloat16. onnxruntime runs the file that PyTorch writes, with its own dynamic int8.
Needs torch, transformers, openvino, onnx and onnxruntime; no jax.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic

Pass = Callable[[np.ndarray], Any]  # ids int64 [B,T] to last states [B,T,D]


class LastStates(torch.nn.Module):
    """A model that takes ids and a mask, and returns the last states alone."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


def loaded(folder: str) -> LastStates:
    """Returns the model in float32, without dropout."""
    return LastStates(transformers.AutoModel.from_pretrained(folder)).eval()


def by_torch(folder: str, dtype: torch.dtype) -> Pass:
    model = loaded(folder).to(dtype)

    @torch.inference_mode()
    def run(ids: np.ndarray) -> Any:
        return model(torch.from_numpy(ids), torch.ones(ids.shape, dtype=torch.int64))

    return run


def by_openvino(folder: str, precision: str) -> Pass:
    example = (torch.ones(2, 8, dtype=torch.int64),) * 2
    model = openvino.convert_model(loaded(folder), example_input=example)
    compiled = openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    )
    return lambda ids: compiled([ids, np.ones_like(ids)])[0]


def by_onnxruntime(folder: str, *, quantized: bool) -> Pass:
    with tempfile.TemporaryDirectory() as place:
        plain, small = Path(place) / "model.onnx", Path(place) / "int8.onnx"
        axes = {name: {0: "rows", 1: "tokens"} for name in ("ids", "mask", "states")}
        torch.onnx.export(
            loaded(folder),
            (torch.ones(2, 8, dtype=torch.int64),) * 2,
            str(plain),
            input_names=["ids", "mask"],
            output_names=["states"],
            dynamic_axes=axes,
            dynamo=False,
        )
        if quantized:
            quantize_dynamic(plain, small, weight_type=QuantType.QInt8)
        session = onnxruntime.InferenceSession(str(small if quantized else plain), providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, {"ids": ids, "mask": np.ones_like(ids)})[0]


SIDES: dict[str, Callable[[str], Pass]] = {
    "torch float32": lambda folder: by_torch(folder, torch.float32),
    "torch bfloat16": lambda folder: by_torch(folder, torch.bfloat16),
    "openvino float32": lambda folder: by_openvino(folder, "f32"),
    "openvino bfloat16": lambda folder: by_openvino(folder, "bf16"),
    "onnxruntime float32": lambda folder: by_onnxruntime(folder, quantized=False),
    "onnxruntime int8": lambda folder: by_onnxruntime(folder, quantized=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    passes: dict[str, Pass] = {}
    for line in sys.stdin:
        command = json.loads(line)
        if command["cmd"] == "versions":
            answer: Any = {m.__name__: m.__version__ for m in (torch, transformers, openvino, onnxruntime)}
        else:
            side = command["side"]
            if side not in passes:
                passes[side] = SIDES[side](options.model)
            drawn = np.random.default_rng(0).integers(1000, 20000, (command["rows"], command["tokens"]))
            started = time.perf_counter()
            states = passes[side](drawn)
            answer = {"seconds": time.perf_counter() - started, "shape": list(states.shape)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
