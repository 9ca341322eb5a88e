"""Embeddings of width 64 below a projection, at the operations of `text_mlm`: a wider mlp.

topgraft train-backbone factorised_flops --workdir runs/factorised_flops

The head of masked language modelling multiplies with a quarter of the table, which pays for 304 units a block.
"""

from dataclasses import replace

from configs.backbones.text_mlm import get_config as plain
from trainers.pretraining.config import BackboneConfig, NewBert


def get_config() -> BackboneConfig:
    network = NewBert(blocks=4, width=256, heads=4, mlp_width=1328, first_weights="local", embedding_width=64)
    return replace(plain(), name="factorised_flops", network=network)
