"""One label per text: LoRA in every block, with another rank in one of them."""

from adapters.specs import Classification, Lora, LoraOverride
from trainers.config import Data, Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="lora",
        backbone="backbone",
        data=Data(train=("data/topics.csv",), test=("data/topics_test.csv",), dev_fraction=0.2, max_tokens=48),
        adapter=Lora(rank=4, alpha=8.0, overrides=(LoraOverride("2/attention/*", rank=2),)),
        head=Classification(pooling="first", dropout=0.1),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, clip_norm=1.0),
        epochs=1,
        seed=7,
    )
