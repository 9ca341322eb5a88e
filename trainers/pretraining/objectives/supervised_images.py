"""Classification of labelled images by a linear layer on the finished class token (Dosovitskiy et al. 2020).

Held out are the test rows, or the development rows where `data.test` is empty. Training images are moved by some
pixels, drawn on the device from the key alone; held-out images are not. Imports no jax.

Shapes: B images, T tokens, P values of a patch, S pixels a side, C labels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backbone.errors import InputError
from backbone.lazy import jax, jnp, optax
from backbone.spec import ImageSpec
from metering.counts import Count, product
from trainers.pretraining.objectives.images import ImageObjective
from trainers.pretraining.objectives.objective import finished_states, weighted_mean

if TYPE_CHECKING:
    from jax import Array

    from backbone.trees import Params
    from trainers.pretraining.material import Batch, Material


@dataclass(frozen=True)
class SupervisedImages(ImageObjective, tag="supervised_images"):
    """Classification of labelled images by a linear layer on the class token."""

    streams = True
    scores = ("loss", "accuracy")

    shift: int = 0  # largest move of a training image in pixels, either way on both axes; edges are repeated

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise InputError(f"shift: may not be negative, got {self.shift}")

    def init_head(self, material: Material, rng: Array) -> Params:
        from backbone.network.encoder import INIT_STD

        shape = material.network.spec.width, len(material.labels)
        kernel = INIT_STD * jax.random.truncated_normal(rng, -2, 2, shape)
        return {"classifier": {"kernel": kernel, "bias": jnp.zeros(shape[1:])}}

    def logits(self, material: Material, params: Params, ids: Array, dtype: Any, remat: bool = False) -> Array:
        """Computes scores float32 [B,C] of patches uint8 [B,T,P]."""
        head = params["head"]["classifier"]
        first = finished_states(material.network, params["backbone"], ids, dtype=dtype, remat=remat)[:, 0]
        kernel = head["kernel"].astype(first.dtype)
        logits: Array = jnp.einsum("bd,dc->bc", first, kernel, preferred_element_type=jnp.float32) + head["bias"]
        return logits

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
        ids, image = batch["ids"], material.network.spec.image
        assert image is not None
        if self.shift:
            offsets = jax.random.randint(rng, (len(ids), 2), -self.shift, self.shift + 1)
            ids = moved(ids, offsets, self.shift, image)
        logits = self.logits(material, params, ids, dtype, remat)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return weighted_mean(losses, batch["weights"])

    def score(
        self, material: Material, params: Params, batch: Batch, rng: Array, *, dtype: Any = "float32"
    ) -> tuple[dict[str, Array], Array]:
        logits, labels = self.logits(material, params, batch["ids"], dtype), batch["labels"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        loss, rows = weighted_mean(losses, batch["weights"])
        accuracy, _ = weighted_mean((logits.argmax(axis=-1) == labels).astype(jnp.float32), batch["weights"])
        return {"loss": loss, "accuracy": accuracy}, rows

    def head_cost(self, material: Material, rows: int) -> Count:
        return product(rows, material.network.spec.width, len(material.labels))


def moved(rows: Array, offsets: Array, max_offset: int, image: ImageSpec) -> Array:
    """Moves patches [B,T,P] of images down and right by `offsets` int [B,2] within -max_offset..max_offset.

    Edges are repeated.
    """
    side, patch, special = image.size // image.patch, image.patch, image.special
    grid = rows[:, special:].reshape(-1, side, side, patch, patch, image.channels)
    pixels = grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, image.size, image.size, image.channels)
    wide = jnp.pad(pixels, ((0, 0), (max_offset, max_offset), (max_offset, max_offset), (0, 0)), mode="edge")

    def cut(one: Array, at: Array) -> Array:
        return jax.lax.dynamic_slice(one, (at[0], at[1], 0), pixels.shape[1:])

    grid = jax.vmap(cut)(wide, max_offset - offsets).reshape(-1, side, patch, side, patch, image.channels)
    patches = grid.transpose(0, 1, 3, 2, 4, 5).reshape(len(rows), side**2, image.patch_width)
    return jnp.concatenate([rows[:, :special], patches], axis=1)
