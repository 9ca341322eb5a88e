"""The base of objectives that read labelled images as rows of patches. Imports no jax."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import InputError
from backbone.home import home
from backbone.images import ImagePreprocessing
from trainers.pretraining.material import Material, first_rows
from trainers.pretraining.objectives.objective import Objective, network_of

if TYPE_CHECKING:
    from backbone.storage import Backbone
    from trainers.pretraining.config import BackboneConfig
    from trainers.pretraining.image_stream import StreamedImages
    from trainers.pretraining.labelled_images import LabelledImages

log = logging.getLogger(__name__)


class ImageObjective(Objective):
    """An objective on the labelled images of `data`: `splits` hold "ids" uint8 [N,T,P] and "labels" int32 [N]."""

    reads = "images"

    def check(self, config: BackboneConfig) -> None:
        if config.tokenizer is not None:
            raise InputError(f"tokenizer: objective={self.tag} reads images; set tokenizer=none")
        if config.corpus.files:
            raise InputError(f"corpus.files: objective={self.tag} reads labelled images; name them in data.train")
        if not config.data.train:
            raise InputError("data.train: names no file; expected labelled images (format idx, image_folder, parquet)")
        if not config.data.of_images:
            raise InputError(
                f"data.format: {config.data.format} holds text; objective={self.tag} needs idx, image_folder, or "
                f"data.image, the column of encoded images"
            )

    def read(self, config: BackboneConfig, workdir: Path, start: Backbone | None, *, show: bool = False) -> Material:
        from trainers.pretraining.image_stream import streamed_labelled
        from trainers.pretraining.labelled_images import read_labelled

        if start is not None:
            preprocessing = start.preprocessing
        else:
            assert config.network is not None, "BackboneConfig refuses it without a start"
            preprocessing = config.network.preprocessing()
        assert isinstance(preprocessing, ImagePreprocessing), "a start reads what the objective reads"
        images: StreamedImages | LabelledImages = (
            streamed_labelled(config.data, preprocessing, home() / "streams")
            if config.stream
            else read_labelled(config.data, preprocessing, show=show)
        )
        held_out = {name: first_rows(rows, config.max_held_out) for name, rows in images.splits["held_out"].items()}
        network, family = network_of(config, start, preprocessing)
        material = Material(
            network=network,
            preprocessing=preprocessing,
            family=family,
            fingerprint={"data": images.fingerprint},
            splits={"train": images.splits["train"], "held_out": held_out},
            labels=images.labels,
        )
        rows = material.rows
        if rows["train"] < config.batch_size:
            raise InputError(
                f"data.train: {rows['train']} images to train on, fewer than one batch of {config.batch_size}; add "
                f"images, or lower batch_size"
            )
        log.info("%d images and %d held out, %d labels", rows["train"], rows["held_out"], len(images.labels))
        return material
