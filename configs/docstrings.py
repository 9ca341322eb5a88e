"""Docstrings of the Python standard library: name the package (about 4,600 rows, 27 classes).

    make quickstart

Written by `trainers.docstrings.write_docstrings`, read up to 64 tokens; a probe, and adapters in the top two
blocks if they gain more than noise on the development rows.
"""

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, Plan, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="docstrings",
        backbone="minilm",
        data=Data(train=("train.csv",), test=("test.csv",), max_tokens=64),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value"), blocks="-2:"),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        plan=Plan(stages="auto"),
        epochs=2,
        batch_size=32,
    )
