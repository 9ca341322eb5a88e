"""Your own sentences with BIO tags, no Python written: a tag for each word.

    topgraft train token_tagging \
        --set backbone=minilm --set data.train=train.bio --set data.test=test.bio

A .bio or .conll file has a word and its tag a line (other columns between are left alone) and an empty line
between sentences. JSONL and Parquet hold lists of words and tags (--set data.text=tokens --set data.label=ner_tags;
tags as numbers: --set data.label_names=O,B-PER,I-PER,...). Two parallel files: --set data.format=parallel
--set data.train=seq.in,seq.out. A tag that continues nothing (I- without B-) is an error that names its line.
"""

from adapters.specs import Lora, TokenTagging
from trainers.config import Data, Optimizer, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        name="token_tagging",
        backbone="minilm",
        data=Data(),
        adapter=Lora(rank=8, alpha=16.0, sites=("attention/query", "attention/value")),
        head=TokenTagging(),
        optimizer=Optimizer(learning_rate=2e-3, schedule="linear"),
        metric="entity_f1",
        epochs=3,
        batch_size=32,
    )
