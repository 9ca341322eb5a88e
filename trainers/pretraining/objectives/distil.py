"""Distillation: a smaller trunk imitates a larger one's states on rows of the user's own (Sanh et al. 2019, section 3).

The teacher runs once; its states are kept in the work folder. At each boundary the loss is the squared difference of
the states divided by the teacher's variance, so that all boundaries weigh alike and the mean state scores 1. The same
of the means over a row's tokens stands beside it, since probes read means. Where widths differ, a linear layer without
bias, which is thrown away, stands above the student's states (Jiao et al. 2020, arXiv 1909.10351, equation 8). Imports
no jax.

Shapes: B rows, K boundaries, T tokens, D width of the teacher, S width of the student.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from backbone.errors import InputError
from backbone.lazy import jax, jnp
from backbone.preprocessing import TextPreprocessing
from metering.counts import Count, product
from trainers.pretraining.corpus import read_text
from trainers.pretraining.material import Material, Split
from trainers.pretraining.objectives.images import ImageObjective
from trainers.pretraining.objectives.objective import Objective, network_of

if TYPE_CHECKING:
    from jax import Array

    from backbone.spec import EncoderSpec
    from backbone.storage import Backbone
    from backbone.trees import Params
    from trainers.pretraining.config import BackboneConfig
    from trainers.pretraining.material import Batch

log = logging.getLogger(__name__)

SMALLEST = 1e-6  # variance below which a batch's states count as equal


@dataclass(frozen=True)
class Distillation(Objective):
    """What distillation on texts and on images have in common; `splits` hold "ids", "lengths" and "states"."""

    teacher: str = ""  # backbone folder, run of train-backbone, or minilm, whose states are imitated
    blocks: int = 0  # blocks of a student made of the teacher's; 0: the student is that of `network` or `start`
    boundaries: tuple[
        int, ...
    ] = ()  # boundaries of the student whose states are compared; (): all above its embeddings
    pooled: float = 1.0  # weight of the mean over a row's tokens, beside 1 for the tokens themselves

    def __post_init__(self) -> None:
        if self.blocks < 0:
            raise InputError(f"blocks: may not be negative, got {self.blocks}")
        if self.pooled < 0:
            raise InputError(f"pooled: may not be negative, got {self.pooled}")

    @property
    def brings_network(self) -> bool:
        return self.blocks > 0

    @classmethod
    def example(cls) -> Self:
        return cls(teacher="teacher", blocks=1)

    def check(self, config: BackboneConfig) -> None:
        if not self.teacher:
            raise InputError(f"objective.teacher: names no backbone; {self.tag} imitates one, for example minilm")
        if self.blocks and (config.network is not None or config.start):
            raise InputError(
                "objective.blocks: makes the student of the teacher's blocks; set network=none and no start"
            )

    def compared(self, spec: EncoderSpec) -> tuple[int, ...]:
        """Returns the boundaries of the student whose states are compared, ascending."""
        return tuple(sorted(set(self.boundaries))) or tuple(range(1, spec.blocks + 1))

    def load_teacher(self) -> Backbone:
        """Loads the teacher. Raises InputError if it reads something else."""
        from trainers.pretraining.teacher import named_backbone

        return named_backbone(self.teacher, self.reads, "objective.teacher", self.tag)

    def material(
        self,
        config: BackboneConfig,
        workdir: Path,
        start: Backbone | None,
        teacher: Backbone,
        splits: dict[Split, dict[str, np.ndarray]],
        labels: tuple[str, ...] = (),
    ) -> Material:
        """Returns the rows of both splits with the teacher's states beside them, and the student."""
        from trainers.pretraining.teacher import mapped, rows_id, states_of, student_of

        first_weights = None
        if self.blocks:
            network, first_weights = student_of(teacher, self.blocks)
            family = teacher.source.get("family", "")
        else:
            network, family = network_of(config, start, teacher.preprocessing)
        compared = self.compared(network.spec)
        at = mapped(compared, network.spec.blocks, teacher.spec.blocks)
        if compared[-1] != network.spec.blocks:
            raise InputError(
                f"objective.boundaries: without {network.spec.blocks}, the last, upper blocks learn nothing"
            )
        fingerprint = {"teacher": teacher.weights_id}
        for name, arrays in splits.items():
            fingerprint[name] = rows_id(arrays["ids"], arrays["lengths"])
            arrays["states"] = states_of(teacher, arrays["ids"], arrays["lengths"], at, workdir / "teacher")
        return Material(
            network=network,
            preprocessing=teacher.preprocessing,
            family=family,
            fingerprint=fingerprint,
            splits=splits,
            labels=labels,
            first_weights=first_weights,
        )

    def init_head(self, material: Material, rng: Array) -> Params:
        from backbone.network.encoder import INIT_STD

        spec, width = material.network.spec, material.splits["train"]["states"].shape[-1]
        if spec.width == width:
            return {}
        keys = jax.random.split(rng, len(self.compared(spec)))
        return {
            str(boundary): {"kernel": INIT_STD * jax.random.truncated_normal(key, -2, 2, (spec.width, width))}
            for boundary, key in zip(self.compared(spec), keys, strict=True)
        }

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
        network, backbone, ids, head = material.network, params["backbone"], batch["ids"], params.get("head", {})
        mask = jnp.arange(ids.shape[1]) < batch["lengths"][:, None]
        hidden = network.embed(backbone, {"ids": ids}, dtype)
        compared = self.compared(network.spec)
        _, states = network.run_blocks(backbone, hidden, mask, taps=compared, remat=remat)
        weights = mask * batch["weights"][:, None]  # [B,T]
        shares = weights / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
        total = jnp.zeros((), jnp.float32)
        for number, boundary in enumerate(compared):
            ours = states[boundary]
            ours = network.finish(backbone, ours) if boundary == network.spec.blocks else ours
            if head:
                ours = ours @ head[str(boundary)]["kernel"].astype(ours.dtype)
            ours, target = ours.astype(jnp.float32), batch["states"][:, number].astype(jnp.float32)
            mean, target_mean = (jnp.einsum("bt,btd->bd", shares, state) for state in (ours, target))
            total += unexplained(ours, target, weights)
            total += self.pooled * unexplained(mean, target_mean, batch["weights"])
        return total / (len(compared) * (1 + self.pooled)), weights.sum()

    def head_cost(self, material: Material, rows: int) -> Count:
        spec, states = material.network.spec, material.splits["train"]["states"]
        if spec.width == states.shape[-1]:
            return Count()
        count = product(rows * material.tokens, spec.width, states.shape[-1])
        return count * int(states.shape[1])


def unexplained(ours: Array, target: Array, weights: Array) -> Array:
    """Computes the share of the variance of `target` [...,D] that `ours` misses, with weights [...]: float32."""
    weights = weights[..., None] / jnp.maximum(weights.sum(), 1)
    axes = tuple(range(target.ndim - 1))
    mean = (target * weights).sum(axis=axes, keepdims=True)
    spread = (jnp.square(target - mean) * weights).sum()
    return (jnp.square(ours - target) * weights).sum() / jnp.maximum(spread, SMALLEST * target.shape[-1])


@dataclass(frozen=True)
class Distil(Distillation, tag="distil"):
    """Imitation of a teacher on texts, one row for each paragraph of `corpus`, cut at `corpus.tokens`."""

    reads = "text"

    def check(self, config: BackboneConfig) -> None:
        super().check(config)
        if config.data.train:
            raise InputError(f"data.train: objective={self.tag} reads plain text; name it in corpus.files")
        if config.tokenizer is not None and config.tokenizer.learned:
            raise InputError(f"tokenizer: objective={self.tag} takes that of its teacher; set tokenizer=none")

    def read(self, config: BackboneConfig, workdir: Path, start: Backbone | None, *, show: bool = False) -> Material:
        text, teacher, tokens = read_text(config.corpus), self.load_teacher(), config.corpus.tokens
        preprocessing = teacher.preprocessing
        assert isinstance(preprocessing, TextPreprocessing), "the teacher reads text"
        if tokens > preprocessing.max_tokens:
            raise InputError(
                f"corpus.tokens: {tokens} exceeds {preprocessing.max_tokens}, the longest the teacher takes"
            )
        if config.tokenizer is not None:
            given = config.tokenizer.tokenizer(text.train, preprocessing.max_tokens)
            self._require_same(given.preprocessing_id, preprocessing, "tokenizer: it")
        if start is not None:
            self._require_same(start.preprocessing_id, preprocessing, f"start: the tokenizer of {config.start}")
        sides: dict[Split, list[str]] = {"train": list(text.train), "held_out": list(text.held_out)}
        splits = {name: padded(preprocessing.encode(side, tokens), tokens) for name, side in sides.items()}
        train, held_out = len(sides["train"]), len(sides["held_out"])
        if train < config.batch_size or not held_out:
            raise InputError(
                f"corpus.files: {train} paragraphs to train on and {held_out} held out; at least "
                f"a batch of {config.batch_size} and one are needed; put blank lines between texts"
            )
        log.info("%d texts and %d held out; teacher %s", train, held_out, self.teacher)
        return self.material(config, workdir, start, teacher, splits)

    def _require_same(self, preprocessing_id: str, teacher: TextPreprocessing, what: str) -> None:
        if preprocessing_id != teacher.preprocessing_id:
            raise InputError(
                f"{what} is another one than the teacher's ({self.teacher}), so its ids mean other tokens; take "
                "a teacher of the same tokenizer"
            )


@dataclass(frozen=True)
class DistilImages(Distillation, ImageObjective, tag="distil_images"):
    """Imitation of a teacher on the images of `data`; their labels are not read by the loss."""

    reads = "images"

    def check(self, config: BackboneConfig) -> None:
        ImageObjective.check(self, config)
        Distillation.check(self, config)

    def read(self, config: BackboneConfig, workdir: Path, start: Backbone | None, *, show: bool = False) -> Material:
        from backbone.images import ImagePreprocessing
        from trainers.pretraining.labelled_images import read_labelled

        teacher = self.load_teacher()
        preprocessing = teacher.preprocessing
        assert isinstance(preprocessing, ImagePreprocessing), "the teacher reads images"
        other = config.network.preprocessing() if config.network else start.preprocessing if start else preprocessing
        if other.preprocessing_id != preprocessing.preprocessing_id:
            raise InputError(f"objective.teacher: {self.teacher} cuts images into other patches than the student")
        images = read_labelled(config.data, preprocessing, show=show)
        for arrays in images.splits.values():
            arrays["lengths"] = np.full(len(arrays["ids"]), arrays["ids"].shape[1], np.int32)
        if len(images.splits["train"]["ids"]) < config.batch_size:
            raise InputError(f"data.train: fewer images than one batch of {config.batch_size}; lower batch_size")
        return self.material(config, workdir, start, teacher, images.splits, images.labels)


def padded(rows: list[np.ndarray], tokens: int) -> dict[str, np.ndarray]:
    """Returns "ids" int32 [N,T], zeros behind each row, and "lengths" int32 [N]."""
    ids = np.zeros((len(rows), tokens), np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return {"ids": ids, "lengths": np.array([len(row) for row in rows], np.int32)}
