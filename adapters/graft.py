"""A graft in memory: loaded, verified, ready to answer.

graft = load_graft("runs/banking77/graft")
graft.predict(["I am still waiting on my card?"])[0].label
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters.artefact.exits import Exits, read_exits
from adapters.artefact.manifest import Manifest
from adapters.artefact.read import read_graft
from adapters.artefact.scope import Scope, read_scope
from adapters.artefact.write import model_on, verify_on
from adapters.forward import answers_of, logits_of, run_rows, with_exits
from adapters.inputs import Encoded, checked, encode_inputs
from adapters.model import GraftModel
from adapters.predictions import Prediction
from backbone.buckets import TokenRow
from backbone.errors import InputError
from backbone.home import find_backbone
from backbone.precisions.precision import precision_of
from backbone.remote import local
from backbone.storage import Backbone, load_backbone, read_record
from backbone.trees import Params

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Graft:
    """A graft on its backbone."""

    model: GraftModel
    params: Params  # {"adapter": ..., "head": ...}, on the devices of the backbone or on the host
    backbone: Backbone
    max_tokens: int  # longer texts are cut
    manifest: Manifest | None = None  # manifest of a graft that was stored
    scope: Scope | None = None  # parts of the out-of-scope score, where the graft has one
    exits: Exits | None = None  # heads at lower boundaries, where the graft has some

    @cached_property
    def placed(self) -> Params:
        """Returns the parameters on the devices of the backbone: placed once, not at every request."""
        return self.backbone.layout.params(self.params)

    def encode(self, texts: Sequence[Any]) -> list[TokenRow]:
        """Returns token ids as in training, cut at `max_tokens`; patches of images (files or encoded bytes)."""
        return self._encoded(checked(self.model.head, self.backbone, texts)).rows

    def _encoded(self, texts: Sequence[Any]) -> Encoded:
        return encode_inputs(self.model.head, self.backbone, texts, self.max_tokens)

    def logits(self, texts: Sequence[Any], on_rows: Callable[[int], object] = lambda count: None) -> np.ndarray:
        """Returns logits float32 [N,C] of N texts or pairs, each in its own length bucket; [N,T,C] of tokens."""
        return self.logits_of_rows(self.encode(texts), on_rows)

    def logits_of_rows(
        self, rows: Sequence[TokenRow], on_rows: Callable[[int], object] = lambda count: None
    ) -> np.ndarray:
        """Returns logits float32 [N,C] of N rows of token ids; [N,T,C] of tokens, T the longest bucket."""
        if not len(rows):
            return np.zeros((0, len(self.model.labels)), np.float32)
        params = self.placed

        def program(ids: Any, mask: Any) -> jax.Array:
            return logits_of(self.model, self.backbone.params, params, {"ids": ids, "mask": mask})

        return self._run(program, rows, on_rows)

    def _run(
        self,
        program: Callable[[Any, Any], jax.Array],
        rows: Sequence[TokenRow],
        on_rows: Callable[[int], object] = lambda count: None,
    ) -> np.ndarray:
        """Runs a program over rows of token ids, on the devices of the backbone."""
        fill, layout = self.backbone.preprocessing.fill, self.backbone.layout
        return run_rows(program, rows, self.backbone.lengths, fill, on_rows, layout=layout)

    def answers_of_rows(self, rows: Sequence[TokenRow]) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns logits as `logits_of_rows`, and out-of-scope scores float [N] or None, in one pass."""
        if self.scope is None or not len(rows):
            return self.logits_of_rows(rows), None
        params, boundary = self.placed, self.scope.boundary

        def program(ids: Any, mask: Any) -> jax.Array:
            return answers_of(self.model, self.backbone.params, params, {"ids": ids, "mask": mask}, boundary)

        outputs = self._run(program, rows)
        logits, features = np.split(outputs, [len(self.model.labels)], axis=1)
        return logits, self.scope.scores(features)

    def logits_and_pooled(self, rows: Sequence[TokenRow], boundaries: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits float32 [N,C], and the means of the graft's states at E boundaries, side by side [N,E D]."""
        if not len(rows):
            empty = np.zeros((0, len(self.model.labels)), np.float32)
            return empty, np.zeros((0, len(boundaries) * self.backbone.spec.width), np.float32)
        params = self.placed

        def program(ids: Any, mask: Any) -> jax.Array:
            inputs = {"ids": ids, "mask": mask}
            return with_exits(self.model, self.backbone.params, params, inputs, boundaries)

        outputs = self._run(program, rows)
        logits, pooled = np.split(outputs, [len(self.model.labels)], axis=1)
        return logits, pooled

    def early_logits_of_rows(self, rows: Sequence[TokenRow]) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits float32 [N,C] with early exits, and the boundary int [N] that answered each row.

        Every row runs through all blocks here; only `serving` saves the blocks above an exit. Raises InputError
        where the graft has no exits.
        """
        if self.exits is None:
            raise InputError("this graft has no early exits; train it with exits.boundaries")
        return self.exits.answers(*self.logits_and_pooled(rows, self.exits.boundaries), self.backbone.spec.blocks)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns probabilities float32 [N,C], or what the head has in their place."""
        return np.asarray(self.model.head.probabilities(logits))

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Returns the head's answers: label numbers int [N], bool [N,C], numbers float [N], or tags int [N,T]."""
        return self.model.head.decide(self.probabilities(logits))

    def predict(self, texts: Sequence[Any]) -> list[Prediction]:
        """Returns the answer for each text, image (a file or encoded bytes), (text, text) or sentence.

        What it takes depends on the backbone and the head; a sentence is a text or a list of words. A graft that
        abstains gives no label to what is out of its scope.
        """
        inputs = checked(self.model.head, self.backbone, texts)
        encoded = self._encoded(inputs)
        logits, scores = self.answers_of_rows(encoded.rows)
        return self.model.head.answers(
            self.model.labels,
            logits,
            scores=scores,
            abstain=self.scope is not None and self.scope.abstain,
            texts=inputs,
            places=encoded.places,
        )


def load_graft(path: str | Path, backbone: str | Path | Backbone | None = None, *, precision: str = "") -> Graft:
    """Loads and verifies a graft and its backbone; raises InputError for anything that does not fit.

    `backbone` is a folder or a loaded backbone to share. The default is the folder used in training, or one of the
    home with the right weights. `precision` is that of the backbone, a tag of `backbone.precisions`; "" takes the one
    that the graft was trained in. Another must be among those that it was validated in.
    """
    path = local(path)
    manifest, params, canary = read_graft(path)
    if not isinstance(backbone, Backbone):
        hint = str(manifest.training.config.get("backbone_path", ""))
        folder = local(backbone) if backbone else find_backbone(manifest.weights_id, [hint])
        backbone = load_backbone(folder, precision=precision or trained_in(manifest, read_record(folder).weights_id))
    elif precision not in ("", backbone.precision):
        raise InputError(f"{path}: precision={precision}, but the loaded backbone is in {backbone.precision}")
    model = model_on(manifest, backbone, str(path))
    verify_on(manifest, params, canary, model, backbone, str(path))
    scope = read_scope(Path(path), manifest, model.pooled_width, backbone.spec.blocks)
    exits = read_exits(Path(path), manifest, backbone.spec.width, backbone.spec.blocks)
    return Graft(model, backbone.layout.params(params), backbone, manifest.max_tokens, manifest, scope, exits)


def trained_in(manifest: Manifest, base_id: str) -> str:
    """Returns the precision of the trunk `base_id` that a graft was trained in; "" for another trunk."""
    if manifest.training.config.get("compute_dtype") == "bfloat16":  # a former run, on the float32 weights' identity
        return "bfloat16"
    return precision_of(base_id, manifest.weights_id) or ""


def require_every_token(graft: Graft, where: str) -> None:
    """Raises InputError for a graft that drops tokens, where its product would answer from all of them."""
    if graft.model.drops:
        raise InputError(f"{where}: drops tokens, which has no place here; take the graft that it was made from")


SCORE, EXITS = "out-of-scope score", "early exits"  # parts of a graft that not every product of it can carry


def dropped(grafts: Sequence[Graft], product: str, *, kept: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the parts that are lost when `grafts` become a `product`, and logs a warning for each graft's."""
    lost: dict[str, None] = {}
    for graft in grafts:
        name = graft.manifest.name if graft.manifest else "a graft"
        for part, has, verb in ((SCORE, graft.scope is not None, "is"), (EXITS, graft.exits is not None, "are")):
            if has and part not in kept:
                log.warning("%s: the %s %s dropped: no place in %s", name, part, verb, product)
                lost[part] = None
    return tuple(lost)
