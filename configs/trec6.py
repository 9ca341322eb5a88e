"""TREC-6, type of a question: 6 classes, 5,452 train and 500 test rows, Latin-1.

topgraft train trec6                          # data in $TOPGRAFT_DATA, default ../shared/data

Test accuracy 96.4 % (seed 0); PEFT with the same recipe 96.2 %.
"""

from pathlib import Path

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, TrainConfig, data_root


def get_config() -> TrainConfig:
    root = Path(data_root()) / "trec6"
    return TrainConfig(
        name="trec6",
        backbone="minilm",
        data=Data(
            train=(str(root / "TREC.train.all"),),
            test=(str(root / "TREC.test.all"),),
            format="label_text",
            encoding="latin-1",
            label_names=("DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM"),
            dev_fraction=0.0,
        ),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        head_start="zero",
        epochs=3,
        batch_size=32,
    )
