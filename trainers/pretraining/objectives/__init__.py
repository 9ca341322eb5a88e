"""One file per objective of `train-backbone`: its settings, its loss, its head."""

from trainers.pretraining.objectives.objective import Objective

__all__ = ["Objective"]
