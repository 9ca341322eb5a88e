"""Emotion of tweets (tweet_eval): 4 classes, 3,257 train, 374 development and 1,421 test rows.

topgraft train emotion                        # data in $TOPGRAFT_DATA, default ../shared/data

Freeze plan: geometric(0.3). Curriculum: short texts first. Test accuracy, and CPU seconds from process start to
stored graft with nothing cached, each on and off (benchmarks/plans.py, seeds 0, 1, 2: means and medians, one core
of an EPYC with AVX-512):

    plan  curriculum   accuracy   CPU s
    on    on             80.4 %     124
    on    off            80.2 %     144
    off   on             80.2 %     122
    off   off            79.8 %     133     PEFT with the same recipe 80.3 %

The curriculum saves time, since short texts are cheap; the plan costs some here: it compiles a program for each of
its stages, which three short epochs do not earn back. From a fitted probe instead of a zero head, adapters in the
top two blocks lose 3 points: see docs/decisions.md. With --set plan.stages=auto --set plan.highest=top --set epochs=4
it is 79.9 % in 97 CPU seconds (benchmarks/never_twice.py).
"""

from pathlib import Path

from adapters.specs import Classification, Lora
from trainers.config import Curriculum, Data, Optimizer, Plan, TrainConfig, data_root


def get_config() -> TrainConfig:
    root = Path(data_root()) / "tweet_eval" / "emotion"

    def split(name: str) -> tuple[str, str]:
        return str(root / f"{name}_text.txt"), str(root / f"{name}_labels.txt")

    return TrainConfig(
        name="emotion",
        backbone="minilm",
        data=Data(
            train=split("train"),
            dev=split("val"),
            test=split("test"),
            format="parallel",
            label_names=("anger", "joy", "optimism", "sadness"),
        ),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=Classification(pooling="mean"),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        head_start="zero",
        plan=Plan(stages="geometric(0.3)"),
        curriculum=Curriculum(difficulty="length"),
        epochs=3,
        batch_size=32,
        select="last",  # as the recipe it is compared with
    )
