"""A tiny backbone and small separable texts, made on the spot."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from backbone.network.encoder import Network
from backbone.preprocessing import TextPreprocessing
from backbone.spec import EncoderSpec
from backbone.storage import save_backbone
from backbone.trees import flatten, unflatten

WORDS = [f"{c}{v}{e}" for c in "bdfgklmnprst" for v in "aeiou" for e in ("n", "s", "l")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPEC = EncoderSpec(blocks=3, width=32, heads=4, mlp_width=64, vocabulary=len(WORDS) + 5, positions=64)
COMPACT = replace(
    SPEC,
    blocks=4,
    groups=2,
    embedding_width=16,
    kv_heads=2,
    mlp_rank=8,
    norm_function="rms",
    activation="squared_relu",
)  # a trunk that is lean in every way


def tokenizer_json() -> str:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=48)  # as published files do; must be switched off by us
    return tokenizer.to_str()


def random_params(spec: EncoderSpec = SPEC, seed: int = 1, scale: float = 4.0) -> dict:
    """Random weights large enough that blocks do something; biases and norms not trivial."""
    params = Network(spec).init(seed)
    leaves, structure = jax.tree.flatten(params)
    draw = np.random.default_rng(seed)
    noisy = [np.asarray(x * scale if x.ndim > 1 else x) + 0.1 * draw.normal(size=x.shape) for x in leaves]
    return jax.tree.unflatten(structure, [x.astype(np.float32) for x in noisy])


def golden_params(spec: EncoderSpec = SPEC) -> dict:
    """Random weights drawn by numpy, the same in every environment and version: what golden files rest on."""
    draw = np.random.default_rng(0)
    return unflatten(
        {
            path: (draw.normal(0, 0.2, leaf.shape) + path.endswith("norm.scale")).astype(np.float32)
            for path, leaf in flatten(Network(spec).abstract()).items()
        }
    )


def preprocessing_of(spec: EncoderSpec = SPEC) -> TextPreprocessing:
    return TextPreprocessing.from_file_text(tokenizer_json(), spec.positions, "tiny")


def make_tiny_backbone(path: Path, *, seed: int = 1, spec: EncoderSpec = SPEC, params: dict | None = None) -> Path:
    source = {"source": "tests", "family": "bert"}
    save_backbone(path, spec, params or random_params(spec, seed), preprocessing_of(spec), source)
    return path


def rows(count: int, classes: int = 3, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of 4, 5 or 20 words (two buckets) with a label that their words betray."""
    draw = random.Random(seed)
    known = WORDS[::6]  # few enough for a linear head on a width of 32
    share = len(known) // classes
    made = []
    for _ in range(count):
        label = draw.randrange(classes)
        own = known[label * share : (label + 1) * share]
        words = [draw.choice(own if draw.random() < 0.95 else known) for _ in range(draw.choice((4, 5, 20)))]
        made.append((" ".join(words), f"class{label}"))
    return made


def write_csv(path: Path, table: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *table])
    return path


def write_config(path: Path, backbone: Path, folder: Path, **fields: str) -> Path:
    """A config script on the tiny backbone; `fields` are Python expressions. Every block is live, unless these say."""
    fields = {"plan": "Plan(stages='all')"} | fields
    write_csv(folder / "train.csv", rows(240, seed=1))
    write_csv(folder / "test.csv", rows(80, seed=2))
    extra = "".join(f", {name}={value}" for name, value in fields.items())
    path.write_text(
        "from adapters.specs import *\nfrom trainers.config import *\n\n"
        "def get_config():\n"
        f"    data = Data(train={str(folder / 'train.csv')!r}, test={str(folder / 'test.csv')!r}, max_tokens=48)\n"
        f"    return TrainConfig(name='tiny', backbone={str(backbone)!r}, data=data{extra})\n"
    )
    return path


def as_json(text: str) -> dict:
    """The last line of a command's stdout."""
    return json.loads(text.strip().splitlines()[-1])
