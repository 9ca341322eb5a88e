"""CLINC150 in scope, 150 intents: 15,000 train and 4,500 test rows.

    topgraft train clinc150                       # data in $TOPGRAFT_DATA, default ../shared/data

Rows out of scope are lists of their own in the file (oos_test) and are left out.
One seed: accuracy 95.0 %; PEFT with the same recipe 91.7 (`benchmarks.peft_tasks`).
"""

from pathlib import Path

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, TrainConfig, data_root


def get_config() -> TrainConfig:
    root = Path(data_root()) / "clinc150"
    return TrainConfig(
        name="clinc150",
        backbone="minilm",
        data=Data(
            train=(f"{root / 'data_full.json'}#train",),
            test=(f"{root / 'data_full.json'}#test",),
            format="json_lists",
            dev_fraction=0.0,
        ),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        head_start="zero",
        metric="accuracy",
        epochs=3,
        batch_size=32,
    )
