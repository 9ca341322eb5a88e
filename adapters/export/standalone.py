"""The answers of a graft that was exported with `topgraft export --format jax`, from this folder alone.

It needs jax, numpy, flatbuffers (with which jax reads an exported function) and tokenizers, but no Topgraft.

    python run.py "a text" "another"            one JSON object a line
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export


class Model:
    """The exported graft; raises ValueError if a file is not the one that was written."""

    def __init__(self, folder: str | Path):
        self.manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
        spelled = json.dumps({**self.manifest, "manifest_id": ""}, sort_keys=True, ensure_ascii=False).encode()
        digests = {"manifest.json": (self.manifest["manifest_id"], spelled)}
        files = {name: (Path(folder) / name).read_bytes() for name in self.manifest["files"]}
        digests |= {name: (self.manifest["files"][name], content) for name, content in files.items()}
        for name, (expected, content) in digests.items():
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError(f"{Path(folder) / name}: sha256 differs: truncated or altered; export the graft again")
        self.weights = jax.device_put(dict(np.load(io.BytesIO(files["weights.npz"]))))
        read = {int(b): export.deserialize(bytearray(files[f])) for b, f in self.manifest["functions"].items()}
        self.functions = {bucket: jax.jit(function.call) for bucket, function in sorted(read.items())}
        self.tokenizer_json = files["tokenizer.json"].decode()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, cut at the folder's `max_tokens`."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        side = tokenizer.truncation["direction"] if tokenizer.truncation else "right"
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.manifest["max_tokens"], direction=side)
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

    def outputs(self, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """Returns outputs float32 [N,...] by name, of N lists of token ids; a row runs in its shortest bucket."""
        batch = self.manifest["batch"]
        results: list[dict[str, np.ndarray]] = [{} for _ in rows]
        places = [next(bucket for bucket in self.functions if len(row) <= bucket) for row in rows]
        for bucket, function in self.functions.items():
            chosen = [i for i, place in enumerate(places) if place == bucket]
            for first in range(0, len(chosen), batch):
                ids = np.full((batch, bucket), self.manifest["fill"], np.int32)
                mask = np.zeros((batch, bucket), bool)
                for place, i in enumerate(chosen[first : first + batch]):
                    ids[place, : len(rows[i])], mask[place, : len(rows[i])] = rows[i], True
                answers = jax.device_get(function(self.weights, ids, mask))
                for place, i in enumerate(chosen[first : first + batch]):
                    results[i] = {name: values[place] for name, values in answers.items()}
        return {name: np.stack([result[name] for result in results]) for name in self.manifest["outputs"] if rows}

    def predict(self, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields a dict for each text: labels, probabilities and out_of_scope, or the value of a regression."""
        outputs, names = self.outputs(self.encode(texts)), self.manifest["labels"]
        threshold = self.manifest["threshold"]  # of any number of labels; null where the most probable one is given
        for i in range(len(texts)):
            if "value" in outputs:
                yield {"value": float(outputs["value"][i])}
                continue
            row, score = outputs["probabilities"][i], outputs["out_of_scope"][i] if "out_of_scope" in outputs else None
            chosen = [row.argmax()] if threshold is None else np.flatnonzero(row >= threshold)
            abstains = score is not None and self.manifest["abstain"] and score > 1
            answer: dict[str, Any] = {"labels": [] if abstains else [names[c] for c in chosen]}
            answer["probabilities"] = {names[c]: float(row[c]) for c in np.argsort(-row, kind="stable")}
            yield answer if score is None else {**answer, "out_of_scope": float(score)}


if __name__ == "__main__":
    texts = sys.argv[1:] or sys.stdin.read().splitlines()
    for text, answer in zip(texts, Model(Path(__file__).parent).predict(texts), strict=True):
        print(json.dumps({"text": text, **answer}, ensure_ascii=False))
