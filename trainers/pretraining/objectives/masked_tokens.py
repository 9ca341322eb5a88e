"""Masked language modelling (Devlin et al. 2018, section 3.1): predict tokens of a row from the others.

Only the logits of the chosen tokens are computed. Their number K is the same for each row, so that a batch has one
shape. Positions, and what stands there, are drawn on the device from the key alone: the same key masks the same tokens.
Imports no jax.

Shapes: B rows, T tokens, K chosen tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backbone.errors import InputError
from backbone.lazy import jax, jnp, optax
from backbone.records import newer
from metering.counts import Count, product
from trainers.pretraining.objectives.objective import finished_states, weighted_mean
from trainers.pretraining.objectives.text import TextObjective

if TYPE_CHECKING:
    from jax import Array

    from backbone.trees import Params
    from trainers.pretraining.material import Batch, Material


@dataclass(frozen=True)
class MaskedTokens(TextObjective, tag="masked_tokens"):
    """Masked language modelling on a fixed number of tokens of each row.

    Of the chosen tokens `mask` become the mask token, `random` another token, and the rest stay.
    """

    needs_mask = True

    fraction: float = 0.15  # share of a row's tokens that is predicted
    mask: float = 0.8  # share of the chosen tokens that becomes the mask token
    random: float = 0.1  # share of the chosen tokens that becomes a random token
    chunk: int = field(default=0, metadata=newer())  # predictions whose logits are made at once; 0: all of a batch

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise InputError(f"fraction: must lie between 0 and 1, got {self.fraction}")
        if self.mask < 0 or self.random < 0 or self.mask + self.random > 1:
            raise InputError("mask: neither this nor random may be negative, and together at most 1")
        if self.chunk < 0:
            raise InputError(f"chunk: may not be negative, got {self.chunk}")

    def slots(self, tokens: int) -> int:
        """Returns K for rows of `tokens` tokens."""
        return max(1, round(self.fraction * tokens))

    def init_head(self, material: Material, rng: Array) -> Params:
        from backbone.network.masked_head import init_head

        return init_head(material.network.spec, rng)

    def masked(self, material: Material, ids: Array, rng: Array) -> tuple[Array, Array, Array]:
        """Draws masks for ids [B,T]: ids with masks [B,T], positions [B,K], whether a slot counts [B,K]."""
        where, what, which = jax.random.split(rng, 3)
        assert material.mask_id is not None, "`needs_mask` makes sure of it"
        eligible = ~jnp.isin(ids, jnp.array(material.special))
        lots = jnp.where(eligible, jax.random.uniform(where, ids.shape), -1.0)
        drawn, positions = jax.lax.top_k(lots, self.slots(ids.shape[1]))
        chosen = jnp.take_along_axis(ids, positions, axis=1)
        other = jax.random.randint(which, chosen.shape, 0, material.network.spec.vocabulary, ids.dtype)
        lot = jax.random.uniform(what, chosen.shape)
        written = jnp.where(lot < self.mask, material.mask_id, chosen)
        written = jnp.where((lot >= self.mask) & (lot < self.mask + self.random), other, written)
        counts = drawn >= 0
        written = jnp.where(counts, written, chosen)
        return jnp.put_along_axis(ids, positions, written, axis=1, inplace=False), positions, counts

    def loss(
        self,
        material: Material,
        params: Params,
        batch: Batch,
        rng: Array,
        *,
        dtype: Any = "float32",
        remat: bool = False,
    ) -> tuple[Array, Array]:
        from backbone.network.masked_head import head_logits, head_states

        ids, backbone, network = batch["ids"], params["backbone"], material.network
        shown, positions, counts = self.masked(material, ids, rng)
        hidden = finished_states(network, backbone, shown, dtype=dtype, remat=remat)
        hidden = jnp.take_along_axis(hidden, positions[..., None], axis=1).reshape(-1, hidden.shape[-1])  # [B K, D]
        head, table = params["head"], backbone["embeddings"]["token"]
        targets = jnp.take_along_axis(ids, positions, axis=1).reshape(-1)
        weights = (counts * batch["weights"][:, None]).reshape(-1)
        if self.chunk:
            from trainers.pretraining.cross_entropy import chunked_cross_entropy

            y, total = head_states(network.spec, head, hidden), weights.sum()
            losses = chunked_cross_entropy(self.chunk, y, table, head["decoder"]["bias"], targets, weights)
            return losses / jnp.maximum(total, 1), total
        logits = head_logits(network.spec, head, table, hidden)
        return weighted_mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets), weights)

    def head_cost(self, material: Material, rows: int) -> Count:
        spec, slots = material.network.spec, rows * self.slots(material.tokens)
        width = spec.embedding_width or spec.width
        return product(slots, spec.width, width) + product(slots, width, spec.vocabulary)

    def context_free_loss(self, material: Material) -> float | None:
        return material.unigram_entropy
