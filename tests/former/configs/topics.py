"""One label per text: LoRA in the top block on cached states; retrained."""

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, Plan, TrainConfig
from trainers.policy import Bound, Gate, Retrain


def get_config() -> TrainConfig:
    return TrainConfig(
        name="topics",
        backbone="backbone",
        data=Data(
            train=("data/topics.csv",),
            test=("data/topics_test.csv",),
            dev_fraction=0.2,
            gate_fraction=0.3,
            max_tokens=48,
        ),
        adapter=Lora(rank=2, alpha=4.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        plan=Plan(stages="top(1)"),
        retrain=Retrain(
            gate=Gate(tolerance=0.5, forgetting=0.5, min_rows=20, bounds=(Bound(metric="macro_f1", at_least=0.3),))
        ),
        epochs=1,
    )
