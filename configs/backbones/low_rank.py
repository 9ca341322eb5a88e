"""Kernels of rank 128 in the mlp, at the bytes and the operations of `text_mlm`: 1,792 units in place of 1,024.

topgraft train-backbone low_rank --workdir runs/low_rank

Every weight of a block is used once for each token, so equal bytes are equal operations.
"""

from dataclasses import replace

from configs.backbones.text_mlm import get_config as plain
from trainers.pretraining.config import BackboneConfig, NewBert


def get_config() -> BackboneConfig:
    network = NewBert(blocks=4, width=256, heads=4, mlp_width=1792, first_weights="local", mlp_rank=128)
    return replace(plain(), name="low_rank", network=network)
