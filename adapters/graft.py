"""A graft in memory: loaded, verified, ready to answer.

graft = load_graft("runs/banking77/graft")
graft.predict(["I am still waiting on my card?"])[0].label
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters.artifact import model_on, read_graft, verify_on
from adapters.heads import head_of
from adapters.manifest import Manifest
from adapters.model import GraftModel
from adapters.programs import logits_of, run_rows
from adapters.specs import MultiLabel
from backbone.errors import InputError
from backbone.home import find_backbone
from backbone.images import ImagePreprocessing
from backbone.storage import Backbone, load_backbone
from backbone.trees import Params, map_leaves


@dataclass(frozen=True)
class Prediction:
    """The answer for one text."""

    labels: tuple[str, ...]  # one for classification; any number, maybe none, for multi_label
    probabilities: dict[str, float]  # of every label, most probable first

    @property
    def label(self) -> str:
        """The one label of a classification."""
        if len(self.labels) != 1:
            raise ValueError(f"this prediction has {len(self.labels)} labels; read .labels")
        return self.labels[0]


@dataclass(frozen=True)
class Graft:
    """A graft on its backbone."""

    model: GraftModel
    params: Params  # {"adapter": ..., "head": ...} on the default device
    backbone: Backbone
    max_tokens: int  # longer texts are cut
    manifest: Manifest | None = None  # of a graft that was stored

    def encode(self, texts: Sequence[Any]) -> list[np.ndarray]:
        """Token ids as in training, cut at the graft's `max_tokens`; patches of images (files or encoded bytes)."""
        if isinstance(self.backbone.preprocessing, ImagePreprocessing):
            return self.backbone.preprocessing.encode(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"texts[{i}]: expected a str, got {type(text).__name__}")
        return self.backbone.preprocessing.encode(texts, self.max_tokens)

    def logits(self, texts: Sequence[Any], on_rows: Callable[[int], object] = lambda count: None) -> np.ndarray:
        """Logits float32 [N,C] of N texts, each computed in its own length bucket."""
        return self.logits_of_rows(self.encode(texts), on_rows)

    def logits_of_rows(
        self, rows: Sequence[np.ndarray], on_rows: Callable[[int], object] = lambda count: None
    ) -> np.ndarray:
        """Logits float32 [N,C] of N rows of token ids."""
        if not len(rows):
            return np.zeros((0, len(self.model.labels)), np.float32)
        params, dtype = jax.device_put(self.params), self.backbone.dtype.name

        def program(ids: np.ndarray, mask: np.ndarray) -> jax.Array:
            return logits_of(self.model, self.backbone.params, params, {"ids": ids, "mask": mask}, dtype)

        return run_rows(program, rows, self.backbone.ladder, self.backbone.preprocessing.fill, on_rows)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities float32 [N,C]."""
        return np.asarray(head_of(self.model.head).probabilities(logits))

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Predicted label numbers int [N], or bool [N,C] for multi_label."""
        return head_of(self.model.head).decide(self.model.head, self.probabilities(logits))

    def predict(self, texts: Sequence[Any]) -> list[Prediction]:
        """Labels and probabilities of each text, or of each image (a file or encoded bytes)."""
        if isinstance(texts, str):
            raise InputError("texts: expected a list of texts, got one str; write predict([text])")
        logits = self.logits(texts)
        answers = []
        for row, decision in zip(self.probabilities(logits), self.decide(logits), strict=True):
            order = np.argsort(-row, kind="stable")
            chosen = np.flatnonzero(decision) if isinstance(self.model.head, MultiLabel) else [decision]
            answers.append(
                Prediction(
                    labels=tuple(self.model.labels[i] for i in chosen),
                    probabilities={self.model.labels[i]: float(row[i]) for i in order},
                )
            )
        return answers


def load_graft(path: str | Path, backbone: str | Path | Backbone | None = None, *, dtype: str = "float32") -> Graft:
    """Loads and verifies a graft and its backbone; raises InputError for anything that does not fit.

    `backbone` is a folder or a loaded backbone to share; by default the folder used in training, or
    one of the home with the right `weights_id`. `dtype` ("float32", "bfloat16") is that of the
    backbone's activations, products and weights in memory.
    """
    manifest, params, canary = read_graft(path)
    if not isinstance(backbone, Backbone):
        hint = str(manifest.training.config.get("backbone_path", ""))
        folder = Path(backbone) if backbone else find_backbone(manifest.weights_id, [hint])
        backbone = load_backbone(folder, dtype=dtype)
    model = model_on(manifest, backbone, str(path))
    verify_on(manifest, params, canary, model, backbone, str(path))
    return Graft(model, map_leaves(jax.device_put, params), backbone, manifest.max_tokens, manifest)
