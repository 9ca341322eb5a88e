"""A tiny config.json of every family, for goldens, imports and the suites that run over families."""

from __future__ import annotations

from typing import Any

import numpy as np

VOCABULARY = 40
LENGTHS = (24, 17, 5)  # of the rows of the goldens: longer than ModernBERT's window of 4 on either side
_SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"vocab_size": VOCABULARY, "max_position_embeddings": 32, **_SIZES},
    "roberta": {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 34,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
        **_SIZES,
    },
    "xlm-roberta": {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 36,
        "type_vocab_size": 1,
        "pad_token_id": 3,
        "layer_norm_eps": 1e-5,
        **_SIZES,
    },
    "distilbert": {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32,
        "n_layers": 2,
        "dim": 32,
        "n_heads": 4,
        "hidden_dim": 48,
    },
    "modernbert": {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32,
        "local_attention": 8,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
        "pad_token_id": 0,
        **_SIZES,
    },
}
TEXT = tuple(CONFIGS)
_IMAGE = {**_SIZES, "image_size": 16, "patch_size": 8}
CONFIGS["vit"] = {**_IMAGE, "num_channels": 3}
CONFIGS["deit"] = {**_IMAGE, "num_channels": 1}


def config_of(family: str) -> dict[str, Any]:
    """What `config.json` holds."""
    return {"model_type": family, **CONFIGS[family]}


def token_rows(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    """Token ids without those of special tokens."""
    draw = np.random.default_rng(seed)
    return [draw.integers(5, VOCABULARY, n).astype(np.int32) for n in lengths]


def images(family: str, count: int = 3, seed: int = 0) -> np.ndarray:
    """Pixels uint8 [N,S,S,C]."""
    config = CONFIGS[family]
    shape = (count, config["image_size"], config["image_size"], config["num_channels"])
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
