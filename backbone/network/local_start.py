"""First weights with which the lowest block of a text encoder looks at each token's neighbours.

Many heads of a trained BERT attend to the token before or after (Clark et al. 2019, section 3.1). Fresh weights take a
while to learn that, perhaps longer than a short run lasts. Until then the loss of masked tokens is that of a guess
without neighbours. Here positions begin as sinusoids (Vaswani et al. 2017, section 3.5). The query and key kernels of
the first block begin with a part that makes a head's score highest at one offset: -1, +1, -2, +2 and so on. Starting
attention from the shape of trained attention is mimetic initialisation (Trockman and Kolter 2023). All of it is
trained from there.

Shapes: T positions, D width, E width of the embeddings, K of the keys, H heads of d = D / H dimensions.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from backbone.network.encoder import INIT_STD
from backbone.spec import EncoderSpec
from backbone.trees import Params

SCORE = 7.0  # score of a head at its offset if half of its input were positions; with segments two fifths are


def start_locally(spec: EncoderSpec, params: Params) -> Params:
    """Returns fresh parameters with positions [T,E] and the qkv kernel [D,D+2K] of block 0 replaced; float32.

    `spec` needs absolute positions without an offset, a norm after the embeddings, and heads of two dimensions or more.
    The sinusoids are about as large as the token embeddings beside them. Embeddings narrower than the blocks pass a
    projection that begins as the identity on their first dimensions. Blocks that share block 0's weights begin so too.
    """
    width, size = spec.embedding_width or spec.width, spec.width // spec.heads
    frequencies = _frequencies(spec, width)
    angles = np.arange(spec.positions)[:, None] * frequencies
    waves = np.zeros((spec.positions, width))
    waves[:, : 2 * len(frequencies)] = math.sqrt(2) * INIT_STD * np.concatenate([np.sin(angles), np.cos(angles)], 1)
    qkv = params["blocks"]["0"]["attention"]["qkv"]
    kernel, gain = np.array(qkv["kernel"], np.float32), 2 * SCORE / math.sqrt(size)
    served = spec.heads // (spec.kv_heads or spec.heads)  # queries of a key
    for head in range(spec.heads):
        query, key = _looking_at(_offset(head), frequencies, spec.width, size)
        kernel[:, head * size : (head + 1) * size] += math.sqrt(gain) * query
        if head % served == 0:  # a key is the same whatever the offset of its queries
            kernel[:, spec.width + head // served * size :][:, :size] += math.sqrt(gain) * key
    block = params["blocks"]["0"]
    attention = {**block["attention"], "qkv": {**qkv, "kernel": jnp.asarray(kernel)}}
    embeddings = {**params["embeddings"], "position": jnp.asarray(waves, jnp.float32)}
    if spec.embedding_width:
        projection = embeddings["projection"]
        whole = projection["kernel"] + jnp.eye(width, spec.width, dtype=jnp.float32)
        embeddings["projection"] = {**projection, "kernel": whole}
    return {
        **params,
        "embeddings": embeddings,
        "blocks": {**params["blocks"], "0": {**block, "attention": attention}},
    }


def _frequencies(spec: EncoderSpec, width: int) -> np.ndarray:
    """Returns the frequencies of E / 2 waves, in radians per token, for embeddings of `width` E.

    A head reads the first R = d / 2 of them, one from each of R equal parts of 0 to pi. The sum of cos(w n) over them
    is then small except at n = 0. That sum also weights the share of the tokens in the score of a query and a key at
    the same place. With each frequency in the middle of its part, the sum is 0 up to n = 2 R. It is R again at n = 4 R.
    For longer rows each lies anywhere in its part. The other waves grow long geometrically, as in Vaswani et
    al.
    """
    read = spec.width // spec.heads // 2
    parts, rest = np.arange(read), width // 2 - read
    place = 0.5 if spec.positions <= 4 * read else np.random.default_rng(0).random(read)
    long = spec.positions ** -(np.arange(rest) / max(rest, 1))
    return np.concatenate([np.pi * (parts + place) / read, long])


def _offset(head: int) -> int:
    """Returns the offset of a head: -1, +1, -2, +2, ..."""
    return (head // 2 + 1) * (-1 if head % 2 == 0 else 1)


def _looking_at(offset: int, frequencies: np.ndarray, width: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernels [D,d] of query and key.

    Their product, on waves at t and u, is a sum of cos(w (t + offset - u)).
    """
    half, count = len(frequencies), size // 2
    sine, cosine, out = np.arange(count), half + np.arange(count), np.arange(count)
    query, key = np.zeros((width, size)), np.zeros((width, size))
    key[sine, out], key[cosine, count + out] = 1.0, 1.0
    turn = frequencies[:count] * offset
    query[sine, out] = query[cosine, count + out] = np.cos(turn)
    query[cosine, out], query[sine, count + out] = np.sin(turn), -np.sin(turn)
    return query, key
