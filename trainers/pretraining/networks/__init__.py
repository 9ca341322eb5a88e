"""One file per architecture that `train-backbone` can start with fresh weights."""

from trainers.pretraining.networks.network import NewNetwork

__all__ = ["NewNetwork"]
