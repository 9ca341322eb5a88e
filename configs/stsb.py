"""STS-B, similarity of two sentences from 0 to 5: 5,749 train rows; scored on GLUE's 1,500 development rows.

    topgraft train stsb                           # data in $TOPGRAFT_DATA, default ../shared/data

Both sentences are read as one row. --set head.pair=two_tower, or cosine, encodes each apart.
One seed: Pearson 0.851; PEFT with the same recipe 0.826 (`benchmarks.peft_tasks`).
"""

from pathlib import Path

from adapters.specs import Lora, Regression
from trainers.config import Data, Optimizer, TrainConfig, data_root


def get_config() -> TrainConfig:
    root = Path(data_root()) / "glue_stsb"
    return TrainConfig(
        name="stsb",
        backbone="minilm",
        data=Data(
            train=(str(root / "train.tsv"),),
            test=(str(root / "dev.tsv"),),
            format="tsv",
            text="sentence1",
            text_pair="sentence2",
            label="score",
            dev_fraction=0.0,
        ),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Regression(pooling="mean", pair="cross"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        head_start="zero",
        metric="pearson",
        epochs=3,
        batch_size=32,
    )
