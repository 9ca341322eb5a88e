"""A tag per word: learned scales of activations."""

from adapters.specs import IA3, TokenTagging
from trainers.config import Data, Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="tags",
        backbone="backbone",
        data=Data(train=("data/words.bio",), format="bio", dev_fraction=0.2, max_tokens=48),
        adapter=IA3(),
        head=TokenTagging(),
        optimizer=Optimizer(learning_rate=2e-2),
        metric="entity_f1",
        epochs=4,
    )
