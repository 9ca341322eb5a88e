"""A static trunk: one vector for each token, distilled from a trunk; a backbone of no blocks.

Every token runs through the trunk alone, between the special tokens of its tokenizer. The mean of its finished states
is reduced to the principal components of the vocabulary, and multiplied by a/(a + p), p the token's share of the text,
so that frequent tokens count less in a mean (Arora et al. 2017, "A simple but tough-to-beat baseline for sentence
embeddings", equation 2.2). Source: model2vec (Tulkens and van Dongen 2024, github.com/MinishLab/model2vec). Special
tokens get zeros.

Shapes: V vocabulary, D width of the trunk, E width of the vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from adapters.machine import ready_to_compute
from backbone import texts
from backbone.errors import InputError
from backbone.home import resolve_backbone
from backbone.preprocessing import TextPreprocessing
from backbone.spec import EncoderSpec
from backbone.storage import Backbone, load_backbone, save_backbone
from backbone.trees import Params

log = logging.getLogger(__name__)

ROWS = 256  # tokens that run at once
WEIGHT = 1e-4  # a of a/(a + p); model2vec's default


@dataclass(frozen=True)
class StaticReport:
    """The result of `distil-static`; `--json` prints it."""

    path: str  # the new folder
    weights_id: str
    width: int  # numbers of a token's vector
    parameters: int  # scalars of the backbone
    explained: float  # share of the variance of all tokens that the components keep
    counted: int  # tokens of the texts that decided the weights; 0: the order of the vocabulary did


def distil_static(backbone: str, out: str | Path, *, width: int = 256, files: Sequence[str] = ()) -> StaticReport:
    """Writes the static trunk of a backbone, a folder or minilm, as the new folder `out`.

    `width` is E. Text files decide how frequent a token is; without them its place in the vocabulary does, as
    Zipf's law has it. Raises InputError for a backbone of images, and a width above that of the trunk.
    """
    ready_to_compute()
    trunk = load_backbone(resolve_backbone(backbone), precision="float32")
    preprocessing = trunk.preprocessing
    if not isinstance(preprocessing, TextPreprocessing):
        raise InputError(f"{backbone}: it reads images; only a trunk that reads text has vectors of tokens")
    if not 0 < width <= trunk.spec.width:
        raise InputError(f"--width: must lie between 1 and the trunk's width {trunk.spec.width}, got {width}")
    shares, counted = token_shares(preprocessing, trunk.spec.vocabulary, files)
    states, special = token_states(trunk, preprocessing)
    vectors, explained = components(states, special, width)
    vectors *= (WEIGHT / (WEIGHT + shares))[:, None]
    vectors[special] = 0
    spec = static_spec(trunk.spec, width)
    params: Params = {"embeddings": {"token": vectors.astype(np.float32)}}
    source = {"source": "distil-static", "family": "", "teacher": trunk.weights_id}
    record = save_backbone(Path(out), spec, params, preprocessing, source)
    return StaticReport(str(out), record.weights_id, width, vectors.size, round(explained, 4), counted)


def static_spec(spec: EncoderSpec, width: int) -> EncoderSpec:
    """Returns the architecture of vectors of `width` for the tokens of a trunk: no blocks, positions or norms."""
    return EncoderSpec(
        blocks=0,
        width=width,
        heads=1,
        mlp_width=1,
        vocabulary=spec.vocabulary,
        positions=spec.positions,
        segments=0,
        pooler=False,
        embedding_norm=False,
    )


def token_states(trunk: Backbone, preprocessing: TextPreprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean finished state of every token between special tokens, float32 [V,D], and which are special [V].

    The row is the one that the tokenizer makes of a text of one token.
    """
    count = trunk.spec.vocabulary
    empty = preprocessing.encode([""])[0]
    special = np.isin(np.arange(count), [*empty.tolist(), preprocessing.fill])
    middle = max(1, len(empty) // 2)
    rows = np.repeat(np.insert(empty, middle, 0)[None], count, axis=0).astype(np.int32)
    rows[:, middle] = np.arange(count)

    @jax.jit
    def run(params: Params, ids: jax.Array) -> jax.Array:
        hidden = trunk.network.embed(params, {"ids": ids})
        hidden = trunk.network.run_blocks(params, hidden, jnp.ones(ids.shape, bool))
        return trunk.network.finish(params, hidden).mean(axis=1)

    states = np.zeros((count, trunk.spec.width), np.float32)
    for first in range(0, count, ROWS):
        part = rows[first : first + ROWS]
        filled = np.concatenate([part, np.repeat(part[:1], ROWS - len(part), axis=0)])
        states[first : first + ROWS] = np.asarray(run(trunk.params, filled))[: len(part)]
    return states, special


def components(states: np.ndarray, special: np.ndarray, width: int) -> tuple[np.ndarray, float]:
    """Returns the first principal components of the tokens' states, [V,E], and the share of the variance they keep.

    Mean and directions are those of the tokens that are not special. The sign of a direction is that of its largest
    entry, so that the same states give the same vectors.
    """
    centred = states.astype(np.float64) - states[~special].mean(axis=0, dtype=np.float64)
    spread, directions = np.linalg.eigh(centred[~special].T @ centred[~special])
    order = np.argsort(spread)[::-1][:width]
    chosen = directions[:, order]
    largest = np.abs(chosen).argmax(axis=0)
    chosen = chosen * np.sign(chosen[largest, np.arange(chosen.shape[1])])
    return centred @ chosen, float(spread[order].sum() / spread.sum())


def token_shares(preprocessing: TextPreprocessing, vocabulary: int, files: Sequence[str]) -> tuple[np.ndarray, int]:
    """Returns each token's share of the text, float64 [V], and the number of tokens that were counted.

    Without files the share falls with the place in the vocabulary, 1/(place + 1). A token that the files lack counts
    once.
    """
    counts, counted = np.ones(vocabulary), 0
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise InputError(f"--text: {name}: no such file")
        lines = [
            line for line in texts.read_text(path, remedy="convert the file to UTF-8").splitlines() if line.strip()
        ]
        for row in preprocessing.encode(lines):
            counts += np.bincount(row, minlength=vocabulary)
            counted += len(row)
    if not files:
        counts = 1 / (np.arange(vocabulary) + 1)
    return counts / counts.sum(), counted
