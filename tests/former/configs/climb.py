"""One label per text: as far up the ladder of plans as it pays; retrained."""

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, Plan, TrainConfig
from trainers.policy import Gate, Retrain


def get_config() -> TrainConfig:
    return TrainConfig(
        name="climb",
        backbone="backbone",
        data=Data(train="data/topics.csv", test="data/topics_test.csv", dev_fraction=0.4, max_tokens=48),
        adapter=Lora(rank=2),
        head=Classification(),
        optimizer=Optimizer(learning_rate=2e-3),
        plan=Plan(stages="auto", highest="top"),
        retrain=Retrain(gate=Gate(tolerance=0.5, forgetting=0.5, min_rows=20)),
        epochs=1,
    )
