"""Grafts behind a router: each input is answered by the graft that the router names, or by none.

    router = load_router("router")
    router.predict(["I am still waiting on my card?"])[0].task

The trunk runs once for each input, up to the highest boundary that the router reads. The graft goes on from the highest
of these states that its adapter left unchanged. Shape letters: `B` batch, `T` tokens, `D` width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.artefact.router import Choice, Router, read_router, require_trunk
from adapters.forward import SMALL_BATCHES, grouped, logits_of, pool_program, states_at
from adapters.graft import Graft, load_graft
from adapters.inputs import checked, encode_inputs
from adapters.model import GraftModel
from adapters.predictions import Prediction
from adapters.specs import Classification, Probe
from backbone.buckets import TokenRow, pad
from backbone.errors import InputError, nearest
from backbone.storage import Backbone

HEAD = Classification()  # inputs are encoded as for one label a text


@dataclass(frozen=True)
class RoutedPrediction:
    """The answer for one input, and the task that gave it."""

    task: str | None  # task whose graft answered; None: no graft does
    probability: float  # probability of the most probable graft
    prediction: Prediction | None  # answer of the graft; None: no graft answered


@dataclass(frozen=True)
class _Batch:
    """Inputs of one length bucket, with what the trunk made of them."""

    rows: np.ndarray  # int [n], numbers of the inputs; the batch may hold more rows, which only fill it
    ids: np.ndarray  # int32 [B,T]
    mask: np.ndarray  # bool [B,T]
    states: dict[int, jax.Array]  # states of the bare trunk [B,T,D] by boundary


@dataclass(frozen=True)
class RoutedGrafts:
    """A router and the grafts that it names, on one trunk."""

    router: Router
    grafts: Mapping[str, Graft]  # graft by task
    backbone: Backbone

    def choices(self, texts: Sequence[Any]) -> list[Choice]:
        """Returns which graft would answer each text or image; no graft runs."""
        choices = [Choice(None, 0.0)] * len(texts)
        for batch in self._batches(self._encoded(texts)):
            for row, choice in zip(batch.rows, self._chosen(batch), strict=True):
                choices[row] = choice
        return choices

    def predict(self, texts: Sequence[Any]) -> list[RoutedPrediction]:
        """Returns the answer for each text or image (a file or encoded bytes), in their order."""
        rows = self._encoded(texts)
        answers = [RoutedPrediction(None, 0.0, None)] * len(texts)
        for batch in self._batches(rows):
            choices = self._chosen(batch)
            for task in dict.fromkeys(choice.task for choice in choices):
                places = np.array([place for place, choice in enumerate(choices) if choice.task == task])
                given: Sequence[Prediction | None] = [None] * len(places)
                if task is not None:
                    given = self._answers(self.grafts[task], texts, rows, batch, places)
                for place, prediction in zip(places, given, strict=True):
                    answers[batch.rows[place]] = RoutedPrediction(task, choices[place].probability, prediction)
        return answers

    def _encoded(self, texts: Sequence[Any]) -> list[TokenRow]:
        limit = self.router.record.max_tokens
        return encode_inputs(HEAD, self.backbone, checked(HEAD, self.backbone, texts), limit).rows

    @cached_property
    def _bare(self) -> GraftModel:
        return GraftModel(self.backbone.network, (Probe(),), HEAD, self.router.names)

    @cached_property
    def _head(self) -> dict[str, np.ndarray]:
        return head_of(self.router)

    @cached_property
    def _stops(self) -> list[int]:
        """Returns the boundaries whose states are kept: the router's, and those where a graft can go on."""
        read = self.router.record.boundaries
        return sorted({*read, *(b for g in self.grafts.values() if (b := shared_boundary([g])) <= max(read))})

    def _batches(self, rows: Sequence[TokenRow]) -> Iterator[_Batch]:
        lengths, backbone = [len(row) for row in rows], self.backbone
        for bucket, size, indices in grouped(lengths, backbone.lengths) if rows else ():
            filler = [rows[indices[-1]]] * (size - len(indices))
            ids, mask = pad([*(rows[i] for i in indices), *filler], bucket, backbone.preprocessing.fill)
            states = states_at(self._bare, backbone.params, {}, {"ids": ids, "mask": mask}, self._stops)
            yield _Batch(indices, ids, mask, states)

    def _chosen(self, batch: _Batch) -> list[Choice]:
        rest = {name: value for name, value in self.backbone.params.items() if name != "blocks"}
        states = {boundary: batch.states[boundary] for boundary in self.router.record.boundaries}
        pooled = pool_program(self._bare)(rest, states, batch.mask)
        probabilities = _probabilities(self._head, pooled.reshape(len(pooled), -1))
        return self.router.chosen(np.asarray(probabilities)[: len(batch.rows)])

    def _answers(
        self, graft: Graft, texts: Sequence[Any], rows: Sequence[TokenRow], batch: _Batch, places: np.ndarray
    ) -> list[Prediction]:
        """Returns the graft's answers at `places` of a batch, from the states that the router made.

        A graft that reads an input otherwise (words, a shorter cut), or measures a score of its own, runs alone.
        """
        numbers = batch.rows[places]
        cut = any(len(rows[number]) > graft.max_tokens for number in numbers)
        if cut or graft.scope is not None or graft.model.head.one_answer_per != "row":
            return graft.predict([texts[number] for number in numbers])
        size = next(size for size in (*SMALL_BATCHES, len(batch.mask)) if size >= len(places))
        chosen = np.concatenate([places, np.repeat(places[:1], size - len(places))])
        usable = {b: state[chosen] for b, state in batch.states.items() if b <= shared_boundary([graft])}
        inputs = {"ids": batch.ids[chosen], "mask": batch.mask[chosen], "states": usable}
        params = self.backbone.layout.params(graft.params)
        logits = np.asarray(logits_of(graft.model, self.backbone.params, params, inputs))[: len(places)]
        return graft.model.head.answers(graft.model.labels, logits)


def head_of(router: Router) -> dict[str, np.ndarray]:
    """Returns the arrays of a router's head as `probabilities_of` takes them; K outputs of C grafts."""
    owners = np.eye(router.owners.max() + 1, dtype=np.float32)[router.owners]
    return {"kernel": router.kernel, "bias": router.bias, "owners": owners}


def probabilities_of(head: Mapping[str, Any], pooled: jax.Array) -> jax.Array:
    """Returns what `Router.probabilities` does, float32 [B,C], of pooled states float32 [B,P], inside a program."""
    exact = jax.lax.Precision.HIGHEST  # the threshold was certified for such sums
    outputs = jnp.dot(pooled, head["kernel"], precision=exact) + head["bias"]
    return jnp.dot(jax.nn.softmax(outputs, axis=1), head["owners"], precision=exact)


_probabilities = jax.jit(probabilities_of)


def shared_boundary(grafts: Iterable[Graft]) -> int:
    """Returns the highest boundary below which every graft is the plain trunk."""
    return min(min(graft.model.adapted_blocks, default=graft.backbone.spec.blocks) for graft in grafts)


def load_router(
    path: str | Path,
    grafts: Mapping[str, str | Path] | None = None,
    backbone: str | Path | Backbone | None = None,
) -> RoutedGrafts:
    """Loads and verifies a router and its grafts.

    `grafts` gives the folder of a task's graft; by default it is the one that the router was made from. A later
    version of a task is fine. `backbone` is a folder or a loaded backbone to share. Raises InputError for anything
    damaged or mismatched, and for a folder of a task that the router does not know.
    """
    router, folders = read_router(path), dict(grafts or {})
    for name in folders:
        if name not in router.names:
            raise InputError(f"{path}: {name!r} is no task of this router; {nearest(name, router.names)}")
    loaded: dict[str, Graft] = {}
    for task in router.record.tasks:
        folder = Path(folders.get(task.name, task.path))
        if not folder.exists():
            raise InputError(
                f"{path}: the graft of {task.name!r} is not at {folder}; name its folder: "
                f"load_router(..., grafts={{{task.name!r}: ...}})"
            )
        loaded[task.name] = graft = load_graft(folder, backbone)
        if not isinstance(backbone, Backbone):
            backbone = graft.backbone
    assert isinstance(backbone, Backbone)
    require_trunk(router, backbone.weights_id, backbone.preprocessing_id, str(path))
    return RoutedGrafts(router, loaded, backbone)
