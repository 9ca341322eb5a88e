"""Any number of labels per text: bottlenecks, and a freeze plan written out stage by stage; retrained."""

from adapters.specs import Bottleneck, MultiLabel
from trainers.config import Data, Optimizer, Plan, Stage, TrainConfig
from trainers.policy import Gate, Retrain


def get_config() -> TrainConfig:
    return TrainConfig(
        name="aspects",
        backbone="backbone",
        data=Data(
            train=("data/aspects.jsonl",),
            test=("data/aspects_test.jsonl",),
            label="labels",
            dev_fraction=0.4,
            max_tokens=48,
        ),
        adapter=Bottleneck(width=4, placement="pfeiffer"),
        head=MultiLabel(threshold=0.4),
        optimizer=Optimizer(learning_rate=5e-3, warmup_fraction=0.1),
        plan=Plan(stages=(Stage("1:", until_epoch=1), Stage("-1:", until_epoch=1.5), Stage("none")), cache="bfloat16"),
        retrain=Retrain(gate=Gate(metric="macro_f1", tolerance=0.5, forgetting=0.5, min_rows=20)),
        metric="macro_f1",
        epochs=2,
    )
