"""Your own files, no Python written: one label per text.

    topgraft train text_classification \
        --set backbone=minilm --set data.train=train.csv --set data.test=test.csv \
        --set data.text=text --set data.label=category

Any of CSV, TSV, JSONL, Parquet or tfds:NAME. Development rows are taken from the train file by hash
unless data.dev names a file. A run climbs from a probe to adapters while that pays;
--set plan.stages=all trains the adapter in every block from the start. Another method:
--set adapter.method=bottleneck (all of them: docs/training.md, Methods).
"""

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="text_classification",
        backbone="minilm",
        data=Data(text="text", label="label"),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        epochs=3,
        batch_size=32,
    )
