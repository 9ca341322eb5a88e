"""MRPC, whether two sentences say the same: 3,668 train rows; scored on GLUE's 408 development rows.

    topgraft train mrpc                           # data in $TOPGRAFT_DATA, default ../shared/data

Both sentences are read as one row.
One seed: accuracy 81.9 %; PEFT with the same recipe 79.9 (`benchmarks.peft_tasks`).
"""

from pathlib import Path

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, TrainConfig, data_root


def get_config() -> TrainConfig:
    root = Path(data_root()) / "glue_mrpc"
    return TrainConfig(
        name="mrpc",
        backbone="minilm",
        data=Data(
            train=(str(root / "train.official3668.derived.tsv"),),
            test=(str(root / "dev.tsv"),),
            format="tsv",
            text="#1 String",
            text_pair="#2 String",
            label="Quality",
            label_names=("different", "paraphrase"),
            dev_fraction=0.0,
        ),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean", pair="cross"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        head_start="zero",
        metric="accuracy",
        epochs=3,
        batch_size=32,
    )
