"""Embeddings of width 64 below a projection, at the bytes of `text_mlm`: 6 blocks in place of 4.

topgraft train-backbone factorised_bytes --workdir runs/factorised_bytes

The table of 8,000 tokens takes a quarter, which pays for two blocks.
"""

from dataclasses import replace

from configs.backbones.text_mlm import get_config as plain
from trainers.pretraining.config import BackboneConfig, NewBert


def get_config() -> BackboneConfig:
    network = NewBert(blocks=6, width=256, heads=4, mlp_width=1024, first_weights="local", embedding_width=64)
    return replace(plain(), name="factorised_bytes", network=network)
