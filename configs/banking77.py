"""Banking77: 77 intents, 10,003 train and 3,080 test rows.

    topgraft train banking77                      # data in $TOPGRAFT_DATA, default ../shared/data

Freeze plan: geometric(0.5), half of the blocks left are frozen at the end of each epoch. Curriculum: short texts first.
Test accuracy, and CPU seconds from process start to stored graft with nothing cached, each on and off
(benchmarks/plans.py, seed 0, one core of an EPYC with AVX-512):

    plan  curriculum   accuracy   CPU s
    on    on             92.7 %     184
    on    off            92.6 %     226
    off   on             93.0 %     218
    off   off            92.6 %     252     (seeds 0, 1, 2: 92.60, 92.53, 92.76); PEFT with the same recipe 92.5 %

The curriculum is here for its time: in the top block alone it costs a point (benchmarks/curriculum.py). With
--set plan.stages=auto --set data.dev_fraction=0.1 --set target.min_score=0.922 a probe gives
92.5 % in 37 CPU seconds (benchmarks/never_twice.py).

All train rows are used, as in the published results, so there is no development split and the last
parameters are kept.
"""

from pathlib import Path

from adapters.specs import Classification, Lora
from trainers.config import Curriculum, Data, Optimizer, Plan, TrainConfig, data_root


def get_config() -> TrainConfig:
    root = Path(data_root()) / "banking77"
    return TrainConfig(
        name="banking77",
        backbone="minilm",
        data=Data(
            train=(str(root / "train.csv"),),
            test=(str(root / "test.csv"),),
            text="text",
            label="category",
            dev_fraction=0.0,
        ),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        head_start="probe",
        plan=Plan(stages="geometric(0.5)"),
        curriculum=Curriculum(difficulty="length"),
        epochs=3,
        batch_size=32,
    )
