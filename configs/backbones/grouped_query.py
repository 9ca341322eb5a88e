"""One head of keys and values for four of queries, at the bytes and the operations of `text_mlm`.

topgraft train-backbone grouped_query --workdir runs/grouped_query

Every weight of a block is used once for each token, so equal bytes are equal operations. The mlp gains 192 units.
"""

from dataclasses import replace

from configs.backbones.text_mlm import get_config as plain
from trainers.pretraining.config import BackboneConfig, NewBert


def get_config() -> BackboneConfig:
    network = NewBert(blocks=4, width=256, heads=4, mlp_width=1216, first_weights="local", kv_heads=1)
    return replace(plain(), name="grouped_query", network=network)
