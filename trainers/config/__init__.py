"""An experiment as data: the frozen dataclasses that a config script returns. Imports no jax.

    from trainers.config import Data, TrainConfig

    def get_config() -> TrainConfig:
        return TrainConfig(backbone="minilm", data=Data(train=("train.csv",), test=("test.csv",)))

Every field has a default, so `--set a.b=c` reaches all of them. Derived numbers (steps, boundaries)
are computed after the overrides, never in `get_config`.
"""

from adapters.target import Target
from backbone.meshes.mesh import Mesh, Rule
from trainers.config.curriculum import Curriculum
from trainers.config.data import Data, data_root
from trainers.config.experiment import TrainConfig, require_pair
from trainers.config.extras import EarlyExits, OutOfScope
from trainers.config.optimizer import Optimizer
from trainers.config.plan import ClimbStep, Plan
from trainers.config.ranks import Ranks
from trainers.config.retrain import Bound, Column, Gate, Retrain, Schema
from trainers.freezing.explicit import Stage

__all__ = [
    "Bound",
    "ClimbStep",
    "Column",
    "Curriculum",
    "Data",
    "EarlyExits",
    "Gate",
    "Mesh",
    "Optimizer",
    "OutOfScope",
    "Plan",
    "Ranks",
    "Retrain",
    "Rule",
    "Schema",
    "Stage",
    "Target",
    "TrainConfig",
    "data_root",
    "require_pair",
]
