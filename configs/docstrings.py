"""Docstrings of the Python standard library: name the package (about 4,600 rows, 27 classes).

    make quickstart

Written by `trainers.data.docstrings.write_docstrings`. A linear head on the frozen backbone, on its last state or on
the states of every block if those gain more than noise on the development rows. `--set plan.highest=all` climbs
on to adapters in the top two blocks and then in all (measured at 64 tokens: no gain beyond noise).
"""

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, Plan, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="docstrings",
        backbone="minilm",
        data=Data(train=("train.csv",), test=("test.csv",), max_tokens=96),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value"), blocks="-2:"),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        plan=Plan(highest="probe_all"),
        epochs=2,
        batch_size=32,
    )
