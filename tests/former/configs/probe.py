"""One label per text: a probe on two boundaries, with an out-of-scope score and early exits."""

from adapters.specs import Classification, Probe
from trainers.config import Data, EarlyExits, OutOfScope, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="probe",
        backbone="backbone",
        data=Data(train=("data/topics.csv",), test=("data/topics_test.csv",), dev_fraction=0.2, max_tokens=48),
        adapter=Probe(boundaries=(1, -1)),
        head=Classification(),
        out_of_scope=OutOfScope(false_alarms=0.1),
        exits=EarlyExits(boundaries=(1, 2), extra_error=0.2, confidence=0.7, share=0.3),
        seed=9,
    )
