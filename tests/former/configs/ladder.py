"""A number per text: a ladder beside the backbone."""

from adapters.specs import Ladder, Regression
from trainers.config import Data, Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="ladder",
        backbone="backbone",
        data=Data(train=("data/scores.tsv",), label="score", dev_fraction=0.2, max_tokens=48),
        adapter=Ladder(reduction=4, blocks="1:"),
        head=Regression(),
        optimizer=Optimizer(learning_rate=5e-3),
        metric="pearson",
        epochs=1,
    )
