"""CoLA, whether a sentence is grammatical: 8,551 train rows; scored on GLUE's 1,043 development rows.

    topgraft train cola                           # data in $TOPGRAFT_DATA, default ../shared/data

The measure is Matthews' coefficient: a backbone made for sentence embeddings has lost much of grammaticality.
One seed: 0.260; PEFT with the same recipe 0.186 (`benchmarks.peft_tasks`).
"""

from pathlib import Path

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, TrainConfig, data_root


def get_config() -> TrainConfig:
    root = Path(data_root()) / "glue_cola"
    return TrainConfig(
        name="cola",
        backbone="minilm",
        data=Data(
            train=(str(root / "train.tsv"),),
            test=(str(root / "dev.tsv"),),
            format="tsv",
            columns=("source", "label", "mark", "text"),
            label_names=("unacceptable", "acceptable"),
            dev_fraction=0.0,
        ),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=1e-3, schedule="linear"),
        head_start="zero",
        metric="matthews",
        epochs=3,
        batch_size=32,
    )
