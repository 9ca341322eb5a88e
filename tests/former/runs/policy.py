"""One label per text, with a policy of columns and bounds; one run of it finished, another was interrupted."""

from adapters.specs import Classification, Lora
from trainers.config import Data, Optimizer, Plan, TrainConfig
from trainers.policy import Bound, Column, Gate, Retrain, Schema


def get_config() -> TrainConfig:
    return TrainConfig(
        name="policy",
        backbone="backbone",
        data=Data(train=("data/topics.csv",), dev_fraction=0.2, max_tokens=48),
        adapter=Lora(rank=2, alpha=4.0),
        head=Classification(),
        optimizer=Optimizer(learning_rate=2e-3),
        plan=Plan(stages="top(1)"),
        retrain=Retrain(
            schema=Schema(columns=(Column("text", least=1, most=500), Column("label"))),
            gate=Gate(bounds=(Bound(slices="label *", most_lost=0.05), Bound(metric="macro_f1", at_least=0.3))),
        ),
        epochs=3,
        checkpoint_seconds=1e-9,
    )
