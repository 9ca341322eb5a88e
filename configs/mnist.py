"""MNIST: 10 classes, 60,000 train and 10,000 test images of 28 x 28 pixels, grey, as published (IDX, gzip).

    topgraft train mnist --set backbone=backbones/vit          # data in $TOPGRAFT_DATA, default ../shared/data

The backbone is any image encoder; colour ones see the grey value three times. Needs Pillow.
"""

from pathlib import Path

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, TrainConfig, data_root


def get_config() -> TrainConfig:
    root = Path(data_root()) / "mnist"
    return TrainConfig(
        name="mnist",
        backbone="backbones/vit",
        data=Data(
            train=(str(root / "train-images-idx3-ubyte.gz"), str(root / "train-labels-idx1-ubyte.gz")),
            test=(str(root / "t10k-images-idx3-ubyte.gz"), str(root / "t10k-labels-idx1-ubyte.gz")),
            format="idx",
        ),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="first"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        epochs=1,
        batch_size=64,
    )
