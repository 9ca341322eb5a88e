"""Your own pairs of texts, no Python written: a label or a number for each pair.

    topgraft train text_pair \
        --set backbone=minilm --set data.train=train.tsv --set data.test=test.tsv \
        --set data.text=sentence1 --set data.text_pair=sentence2 --set data.label=label

Any of CSV, TSV, JSONL, Parquet or tfds:NAME. Both texts are read as one row (head.pair=cross); with
--set head.pair=two_tower each is encoded apart by the same backbone, and the head reads [u, v, |u-v|, u v]; cosine
reads their cosine alone. A number instead of a label: --set head.kind=regression --set head.pair=cross
--set metric=pearson. A row with a missing side is an error that names its line.
"""

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="text_pair",
        backbone="minilm",
        data=Data(text="text", text_pair="text_pair", label="label"),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean", pair="cross"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        epochs=3,
        batch_size=32,
    )
