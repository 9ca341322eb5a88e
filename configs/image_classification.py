"""Your own images, no Python written: one folder per class.

    topgraft import-backbone path/to/vit --out backbones/vit   # or hf:google/vit-base-patch16-224-in21k
    topgraft train image_classification \\
        --set backbone=backbones/vit --set data.train=photos/train --set data.test=photos/test

`photos/train/CLASS/*.jpg`; development rows are taken from the train folder by hash unless data.dev names
one. Parquet or tfds:NAME with encoded images: --set data.format=auto --set data.image=COLUMN.
Needs Pillow: pip install 'topgraft[images]'.
"""

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="image_classification",
        backbone="backbones/vit",
        data=Data(format="image_folder"),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="first"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        epochs=3,
        batch_size=32,
    )
