"""Gathers, scatters, masks, sorting, casts and whole numbers: exact, but for sums of repeated rows.

Random bits are compared with Threefry's published values, and with Threefry in NumPy.
Source: Salmon et al. 2011 (doi 10.1145/2063384.2063405); the values are `kat_vectors` of Random123 1.09.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.extend
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from metering.known_answers.program import Array, Program, gamma

PUBLISHED = (  # key, counter and bits of threefry2x32 with 20 rounds
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
)
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def programs(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    """Yields the programs; none of them multiplies matrices, so `rounding` plays no part."""
    yield from _gathers(draw)
    yield from _scatters(draw)
    yield from _order(draw)
    yield from _numbers(draw)
    yield from _bits(draw)


def _gathers(draw: np.random.Generator) -> Iterator[Program]:
    table = draw.normal(size=(50, 12)).astype(np.float32)
    ids, columns = draw.integers(0, 50, (4, 7), dtype=np.int32), draw.integers(0, 12, (50, 3), dtype=np.int32)
    yield Program("embedding look-up", lambda table, ids: table[ids], (table, ids), table[ids])
    picked = np.take_along_axis(table, columns, 1)
    yield Program("one entry of each row", lambda t, c: jnp.take_along_axis(t, c, 1), (table, columns), picked)
    at = np.array([3, 44], np.int32)
    cut = table[3:15, :5]
    yield Program("cut at a place", lambda t, a: jax.lax.dynamic_slice(t, (a[0], 0), (12, 5)), (table, at), cut)
    joined = np.concatenate([np.pad(table[:, ::-1].T, ((0, 0), (0, 3))), np.ones((2, 53), np.float32)])
    yield Program(
        "reverse, transpose, pad and join",
        lambda t: jnp.concatenate([jnp.pad(t[:, ::-1].T, ((0, 0), (0, 3))), jnp.ones((2, 53), jnp.float32)]),
        (table,),
        joined,
    )
    lengths = np.array([7, 0, 3], np.int32)
    seen = (np.arange(7) < lengths[:, None])[:, None] & (np.arange(7)[:, None] >= np.arange(7))
    yield Program(
        "mask of lengths and of order",
        lambda lengths: (jnp.arange(7) < lengths[:, None])[:, None] & jnp.tril(jnp.ones((7, 7), bool)),
        (lengths,),
        seen,
    )


def _scatters(draw: np.random.Generator) -> Iterator[Program]:
    ids, g = draw.integers(0, 11, 257, dtype=np.int32), draw.normal(size=(257, 6)).astype(np.float32)
    counts = np.bincount(ids, minlength=13).astype(np.int32)
    yield Program("counts by scatter", lambda ids: jnp.zeros(13, jnp.int32).at[ids].add(1), (ids,), counts)
    right, size = np.zeros((13, 6)), np.zeros((13, 6))
    np.add.at(right, ids, g.astype(np.float64))
    np.add.at(size, ids, np.abs(g).astype(np.float64))
    yield Program(
        "gradient of an embedding",
        jax.grad(lambda table, ids, g: jnp.sum(table[ids] * g)),
        (np.zeros((13, 6), np.float32), ids, g),
        right,
        gamma(int(counts.max()) + 1) * size,
    )
    place, rows = np.array([9, 0, 4], np.int32), g[:3]
    changed = np.ones((13, 6), np.float32)
    changed[place] = rows
    yield Program("rows that are replaced", lambda p, r: jnp.ones((13, 6)).at[p].set(r), (place, rows), changed)
    one_hot = np.eye(11, dtype=np.float32)[ids]
    yield Program("one-hot rows", lambda ids: jax.nn.one_hot(ids, 11), (ids,), one_hot)


def _order(draw: np.random.Generator) -> Iterator[Program]:
    x = draw.integers(-20, 21, (5, 67)).astype(np.float32)  # with ties
    order = np.argsort(x, 1, kind="stable").astype(np.int32)
    falling = np.argsort(-x, 1, kind="stable").astype(np.int32)[:, :9]
    yield Program("sort", lambda x: jnp.sort(x, -1), (x,), np.sort(x, 1))
    yield Program("stable order", lambda x: jnp.argsort(x, -1, stable=True).astype(jnp.int32), (x,), order)
    yield Program("largest nine", lambda x: jax.lax.top_k(x, 9)[0], (x,), np.take_along_axis(x, falling, 1))
    yield Program("places of the largest nine", lambda x: jax.lax.top_k(x, 9)[1], (x,), falling)
    whole = x.astype(np.int32)
    running = whole.cumsum(1, dtype=np.int32)
    yield Program("cumulative sum of whole numbers", lambda x: jnp.cumsum(x, -1), (whole,), running)


def _numbers(draw: np.random.Generator) -> Iterator[Program]:
    x = (draw.normal(size=513) * 2.0 ** draw.integers(-20, 20, 513)).astype(np.float32)
    x[:64] = 1 + np.arange(64) / 2**8  # every second one halfway between two neighbours
    bits = x.astype(ml_dtypes.bfloat16).view(np.uint16)  # to the nearest, ties to even
    # as bits, since XLA may keep more digits of a number that goes back to float32 (xla_allow_excess_precision)
    yield Program(
        "float32 to bfloat16", lambda x: jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16), (x,), bits
    )
    steps = (draw.integers(-600, 600, 400) / 4).astype(np.float32)  # halves lie between two integers
    quantised = np.clip(np.rint(steps), -127, 127).astype(np.int8)
    yield Program("rounding to int8", lambda x: jnp.clip(jnp.round(x), -127, 127).astype(jnp.int8), (steps,), quantised)
    a, b = draw.integers(-1000, 1000, 300, dtype=np.int32), draw.integers(1, 30, 300, dtype=np.int32)
    yield Program("division of whole numbers", lambda a, b: a // b, (a, b), a // b)
    yield Program("remainder of whole numbers", lambda a, b: a % b, (a, b), a % b)
    word = draw.integers(0, 2**32, 100, dtype=np.uint32)
    mixed = (word * np.uint32(2654435761)) ^ (word >> np.uint32(13))
    yield Program(
        "arithmetic modulo 2^32", lambda w: (w * jnp.uint32(2654435761)) ^ (w >> jnp.uint32(13)), (word,), mixed
    )


def _bits(draw: np.random.Generator) -> Iterator[Program]:
    for number, published in enumerate(PUBLISHED):
        *words, bits = (np.array(pair, np.uint32) for pair in published)
        yield Program(f"random bits, published value {number}", jax.extend.random.threefry_2x32, tuple(words), bits)
    key, counter = draw.integers(0, 2**32, 2, dtype=np.uint32), np.arange(256, dtype=np.uint32)
    right = np.concatenate(threefry(key, counter[:128], counter[128:]))
    yield Program("random bits of a row", jax.extend.random.threefry_2x32, (key, counter), right)


def threefry(key: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Returns the two words that threefry2x32 makes of each pair of counters, in 20 rounds."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x, y = first + keys[0], second + keys[1]
    for block in range(5):
        for turn in ROTATIONS[:4] if block % 2 == 0 else ROTATIONS[4:]:
            x = x + y
            y = ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn))) ^ x
        x, y = x + keys[(block + 1) % 3], y + keys[(block + 2) % 3] + np.uint32(block + 1)
    return x, y
