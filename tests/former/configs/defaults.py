"""Every default, of a run and of the methods; loaded, never trained."""

from adapters.specs import IA3, SSF, Bias, Bottleneck, Dora, Norm, Prefix, Router, Vera
from trainers.config import TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        extra=(Bottleneck(), IA3(), Dora(), Vera(), SSF(), Bias(), Norm(), Prefix(), Router()),
    )
