"""Blocks that share their weights, at the bytes of `text_mlm`: 8 blocks in 4 groups of two.

topgraft train-backbone shared_bytes --workdir runs/shared_bytes

Twice the operations of the plain network for a token in its blocks, and the same weights to store.
"""

from dataclasses import replace

from configs.backbones.text_mlm import get_config as plain
from trainers.pretraining.config import BackboneConfig, NewBert


def get_config() -> BackboneConfig:
    network = NewBert(blocks=8, width=256, heads=4, mlp_width=1024, first_weights="local", groups=4)
    return replace(plain(), name="shared_bytes", network=network)
