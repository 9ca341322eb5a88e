"""Any number of labels per text: bottlenecks under a geometric freeze plan."""

from adapters.specs import Bottleneck, MultiLabel
from trainers.config import Curriculum, Data, Optimizer, Plan, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="bottleneck",
        backbone="backbone",
        data=Data(train=("data/aspects.jsonl",), test=("data/aspects_test.jsonl",), label="labels", max_tokens=48),
        adapter=Bottleneck(width=4, placement="parallel", activation="gelu", scale=2.0),
        head=MultiLabel(),
        optimizer=Optimizer(learning_rate=5e-3, schedule="cosine"),
        plan=Plan(stages="geometric(0.4)"),
        curriculum=Curriculum(difficulty="length"),
        metric="average_precision",
        epochs=2,
        seed=8,
    )
