"""What a backbone is trained for: one small class for each objective.

An objective owns a head beside the backbone, and says what its loss on a batch is. A new one is a
spec in `trainers.pretraining.config`, a class here and a row in `OBJECTIVES`.

Shapes: B rows, T tokens, K masked slots of a row, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from backbone.encoder import INIT_STD, Network
from backbone.masked_head import head_logits, init_head
from backbone.trees import Params
from metering.counts import Count, product
from trainers.pretraining.config import MaskedTokens, SupervisedImages
from trainers.pretraining.corpus import Sequences
from trainers.pretraining.labelled_images import LabelledImages, moved

Array = jax.Array
Batch = dict[str, Any]


class Objective(Protocol):
    """A loss over batches of rows, and the head it needs."""

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows in "train" and in "held_out"."""

    @property
    def tokens(self) -> int:
        """T of each row."""

    def init(self, rng: Array) -> Params:
        """A fresh head."""

    def is_used(self, path: str) -> bool:
        """Whether the backbone's parameter at a dotted path has a gradient; one that has none is left as it is."""

    def batch(self, split: str, rows: np.ndarray, size: int) -> Batch:
        """Arrays on the host for the rows of these numbers, filled up to `size` with rows of weight zero."""

    def loss(
        self, params: Params, batch: Batch, rng: Array, *, dtype: Any = jnp.float32, remat: bool = False
    ) -> tuple[Array, Array]:
        """(mean loss, number of predictions) of {"backbone", "head"}; `rng` decides what is predicted."""

    def score(
        self, params: Params, batch: Batch, rng: Array, *, dtype: Any = jnp.float32
    ) -> tuple[dict[str, Array], Array]:
        """(means by name, "loss" among them, number of predictions) on held-out rows."""

    def head_count(self, rows: int) -> Count:
        """Work of the head's forward pass on `rows` rows."""


class MaskedTokenObjective:
    """Predicts K tokens of each row from the others; only their logits are computed.

    K is the same for each row, so that a batch has one shape. The positions and what stands there are
    drawn on the device from `rng` alone: the same key masks the same tokens.
    """

    def __init__(self, spec: MaskedTokens, network: Network, sequences: Sequences):
        self.spec, self.network, self.sequences = spec, network, sequences
        self.slots = max(1, round(spec.fraction * self.tokens))

    def init(self, rng: Array) -> Params:
        return init_head(self.network.spec, rng)

    def is_used(self, path: str) -> bool:
        return not path.startswith("pooler.")

    @property
    def rows(self) -> dict[str, int]:
        return {"train": len(self.sequences.train), "held_out": len(self.sequences.held_out)}

    @property
    def tokens(self) -> int:
        return int(self.sequences.train.shape[1])

    def batch(self, split: str, rows: np.ndarray, size: int) -> Batch:
        ids = self.sequences.train if split == "train" else self.sequences.held_out
        filled = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        return {"ids": ids[filled], "weights": (np.arange(size) < len(rows)).astype(np.float32)}

    def masked(self, ids: Array, rng: Array) -> tuple[Array, Array, Array]:
        """(ids with masks [B,T], positions [B,K], whether a slot counts [B,K]) of ids [B,T]."""
        where, what, which = jax.random.split(rng, 3)
        eligible = ~jnp.isin(ids, jnp.array(self.sequences.special))
        lots = jnp.where(eligible, jax.random.uniform(where, ids.shape), -1.0)
        drawn, positions = jax.lax.top_k(lots, self.slots)
        chosen = jnp.take_along_axis(ids, positions, axis=1)
        other = jax.random.randint(which, chosen.shape, 0, self.network.spec.vocabulary, ids.dtype)
        lot = jax.random.uniform(what, chosen.shape)
        written = jnp.where(lot < self.spec.mask, self.sequences.mask_id, chosen)
        written = jnp.where((lot >= self.spec.mask) & (lot < self.spec.mask + self.spec.random), other, written)
        counts = drawn >= 0
        written = jnp.where(counts, written, chosen)
        return jnp.put_along_axis(ids, positions, written, axis=1, inplace=False), positions, counts

    def loss(
        self, params: Params, batch: Batch, rng: Array, *, dtype: Any = jnp.float32, remat: bool = False
    ) -> tuple[Array, Array]:
        ids, backbone = batch["ids"], params["backbone"]
        shown, positions, counts = self.masked(ids, rng)
        hidden = self.network.embed(backbone, {"ids": shown}, dtype)
        everywhere = jnp.ones(ids.shape, jnp.bool_)
        hidden = self.network.finish(backbone, self.network.run_blocks(backbone, hidden, everywhere, remat=remat))
        hidden = jnp.take_along_axis(hidden, positions[..., None], axis=1).reshape(-1, hidden.shape[-1])  # [B K, D]
        table = backbone["embeddings"]["token"]
        logits = head_logits(self.network.spec, params["head"], table, hidden)
        wanted = jnp.take_along_axis(ids, positions, axis=1).reshape(-1)
        weights = (counts * batch["weights"][:, None]).reshape(-1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
        return _mean(losses, weights)

    def score(
        self, params: Params, batch: Batch, rng: Array, *, dtype: Any = jnp.float32
    ) -> tuple[dict[str, Array], Array]:
        loss, predictions = self.loss(params, batch, rng, dtype=dtype)
        return {"loss": loss}, predictions

    def head_count(self, rows: int) -> Count:
        width, slots = self.network.spec.width, rows * self.slots
        return product(slots, width, width) + product(slots, width, self.network.spec.vocabulary)


class SupervisedImageObjective:
    """Tells the class of each image: a linear layer on its finished class token, C labels.

    Training images are moved by up to `spec.shift` pixels, drawn on the device from `rng` alone; held-out
    images are not.
    """

    def __init__(self, spec: SupervisedImages, network: Network, images: LabelledImages):
        assert network.spec.image is not None
        self.spec, self.network, self.images, self.image = spec, network, images, network.spec.image

    def init(self, rng: Array) -> Params:
        shape = self.network.spec.width, len(self.images.labels)
        kernel = INIT_STD * jax.random.truncated_normal(rng, -2, 2, shape)
        return {"classifier": {"kernel": kernel, "bias": jnp.zeros(shape[1:])}}

    def is_used(self, path: str) -> bool:
        return not path.startswith("pooler.")

    @property
    def rows(self) -> dict[str, int]:
        return {name: len(examples.rows) for name, examples in self.images.splits.items()}

    @property
    def tokens(self) -> int:
        return self.image.tokens

    def batch(self, split: str, rows: np.ndarray, size: int) -> Batch:
        examples = self.images.splits[split]
        filled = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        weights = (np.arange(size) < len(rows)).astype(np.float32)
        return {"ids": examples.rows[filled], "labels": examples.labels[filled], "weights": weights}

    def logits(self, params: Params, ids: Array, dtype: Any = jnp.float32, remat: bool = False) -> Array:
        """Scores float32 [B,C] of patches uint8 [B,T,P]."""
        backbone, head = params["backbone"], params["head"]["classifier"]
        hidden = self.network.embed(backbone, {"ids": ids}, dtype)
        everywhere = jnp.ones(ids.shape[:2], jnp.bool_)
        hidden = self.network.finish(backbone, self.network.run_blocks(backbone, hidden, everywhere, remat=remat))
        kernel = head["kernel"].astype(hidden.dtype)
        logits: Array = jnp.einsum("bd,dc->bc", hidden[:, 0], kernel, preferred_element_type=jnp.float32) + head["bias"]
        return logits

    def loss(
        self, params: Params, batch: Batch, rng: Array, *, dtype: Any = jnp.float32, remat: bool = False
    ) -> tuple[Array, Array]:
        ids, most = batch["ids"], self.spec.shift
        if most:
            ids = moved(ids, jax.random.randint(rng, (len(ids), 2), -most, most + 1), most, self.image)
        logits = self.logits(params, ids, dtype, remat)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return _mean(losses, batch["weights"])

    def score(
        self, params: Params, batch: Batch, rng: Array, *, dtype: Any = jnp.float32
    ) -> tuple[dict[str, Array], Array]:
        logits, labels = self.logits(params, batch["ids"], dtype), batch["labels"]
        loss, rows = _mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels), batch["weights"])
        accuracy, _ = _mean((logits.argmax(axis=-1) == labels).astype(jnp.float32), batch["weights"])
        return {"loss": loss, "accuracy": accuracy}, rows

    def head_count(self, rows: int) -> Count:
        return product(rows, self.network.spec.width, len(self.images.labels))


def _mean(values: Array, weights: Array) -> tuple[Array, Array]:
    """(weighted mean, sum of weights)"""
    total = weights.sum()
    return (values * weights).sum() / jnp.maximum(total, 1), total
