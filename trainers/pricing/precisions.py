"""What each precision of a trunk costs and gains on this machine: speed, bytes, and the loss on calibration rows.

    measured = measure(backbone, calibration)          # one `Measured` for each precision but float32
    tag, reason = choose(measured)                     # the fastest that keeps the score

Speed is the ratio of float32's seconds to the precision's, the two timed in turn, so that a busy machine slows both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from adapters.forward import features_of, run_rows, states_at
from adapters.model import GraftModel
from adapters.specs import Classification, Probe
from backbone.buckets import TokenRow
from backbone.cache import row_key
from backbone.network.stored import Stored
from backbone.precisions.precision import FLOAT32, Precision, precision_named
from backbone.precisions.record import Measured
from backbone.storage import Backbone, in_precision
from backbone.trees import flatten, map_leaves, unflatten
from backbone.variants.registered import variants
from trainers.data.batches import Examples, part_of
from trainers.fitting.linear_head import cross_fitted_logits

MIN_SPEED = 1.2  # speed from which another trunk is worth its while
MIN_COSINE = 0.9999  # cosine from which a precision changes nothing that a row could show
MAX_LOST = 0.005  # accuracy that may be lost, the standard error of the loss included
MIN_ROWS = 200  # labelled rows below which a score says nothing
MAX_ROWS = 1000  # labelled rows that a score is made of
COMPARED = 64  # rows whose pooled states are compared
SHAPES = ((32, 16), (32, 32), (32, 64))  # rows and tokens of the timed batches
ROUNDS = 5  # timings of each shape


@dataclass(frozen=True)
class Calibration:
    """Rows that a precision is judged by."""

    model: GraftModel  # its features are compared, and its head is fitted to them
    rows: Examples
    metric: str  # metric that must not fall

    @property
    def scores(self) -> bool:
        """Returns whether a probe on these rows says something."""
        labels = self.rows.labels
        return len(labels) >= MIN_ROWS and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)


def measure(
    backbone: Backbone,
    calibration: Calibration | None = None,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    *,
    for_speed: bool = False,
) -> tuple[Measured, ...]:
    """Measures every precision beside float32, or those alone that are made for speed; `backbone` is in float32.

    A score is computed only where it decides: for a precision that changes the states and is faster than all that do
    not.
    """
    model = calibration.model if calibration else GraftModel(backbone.network, (Probe(),), Classification(), ("0", "1"))
    rows = calibration.rows.rows[:COMPARED] if calibration else made_up(backbone)
    plain, measured = _features(model, backbone, rows), []
    for tag in (tag for tag, kind in variants(Precision).items() if tag != FLOAT32 and (kind.faster or not for_speed)):
        other = in_precision(backbone, tag)
        speed, cosine = _speed(backbone, other, shapes), _cosine(plain, _features(model, other, rows))
        measured.append(Measured(tag, round(speed, 3), _bytes(other), round(cosine, 6)))
    if calibration is None or not calibration.scores:
        return tuple(measured)
    enough = max((one.speed for one in measured if one.cosine >= MIN_COSINE), default=0.0)
    doubtful = {one.precision for one in measured if one.speed >= max(MIN_SPEED, enough) and one.cosine < MIN_COSINE}
    before = _right(calibration, backbone) if doubtful else np.zeros(0, bool)
    return tuple(
        _scored(one, before, _right(calibration, in_precision(backbone, one.precision)))
        if one.precision in doubtful
        else one
        for one in measured
    )


def choose(measured: Sequence[Measured]) -> tuple[str, str]:
    """Returns the fastest precision that keeps the score, and the reason in words."""
    for one in sorted(measured, key=lambda one: -one.speed):
        if one.speed < MIN_SPEED:
            break
        if one.cosine >= MIN_COSINE:
            return one.precision, f"{one.speed:.2f} times as fast as float32, with a cosine of {one.cosine:.6f}"
        if one.lost is not None and one.noise is not None and one.lost + one.noise <= MAX_LOST:
            return one.precision, f"{one.speed:.2f} times as fast as float32, and a probe loses {one.lost:.4f}"
    return FLOAT32, f"no other precision is {MIN_SPEED} times as fast on this machine and keeps the score"


@dataclass(frozen=True)
class SiteError:
    """The error of one stored kernel or table."""

    precision: str
    site: str  # path of the parameter; blocks that share weights have one
    error: float  # ||Q(W) - W|| / ||W||, Frobenius


def site_errors(backbone: Backbone) -> tuple[SiteError, ...]:
    """Returns the error of every stored kernel and table in every precision; `backbone` is in float32."""
    plain, errors = flatten(map_leaves(np.asarray, backbone.params)), []
    for tag in (tag for tag in variants(Precision) if tag != FLOAT32):
        for path, leaf in flatten(precision_named(tag).prepare(unflatten(plain))).items():
            if leaf is not plain[path]:
                values = leaf.dense() if isinstance(leaf, Stored) else leaf
                size = max(float(np.linalg.norm(plain[path])), 1e-30)
                error = float(np.linalg.norm(np.asarray(values, np.float32) - plain[path])) / size
                errors.append(SiteError(tag, path, round(error, 6)))
    return tuple(errors)


def made_up(backbone: Backbone) -> list[TokenRow]:
    """Returns rows of random tokens, or patches, of several lengths; never training text."""
    draw, spec = np.random.default_rng(0), backbone.spec
    if spec.image:
        return list(draw.integers(0, 256, (COMPARED, spec.image.tokens, spec.image.patch_width)).astype(np.uint8))
    lengths = np.linspace(4, min(32, backbone.preprocessing.max_tokens), COMPARED).astype(int)
    return [draw.integers(0, spec.vocabulary, length).astype(np.int32) for length in lengths]


def spread(examples: Examples) -> Examples:
    """Returns at most MAX_ROWS of a split, evenly spread over it."""
    count = min(MAX_ROWS, len(examples))
    return part_of(examples, np.linspace(0, len(examples) - 1, count).astype(int))


def _features(model: GraftModel, backbone: Backbone, rows: Sequence[TokenRow]) -> np.ndarray:
    """Returns the features of a probe, float32 [N,F], or [N,T,F] for tagging."""

    def program(ids: Any, mask: Any) -> jax.Array:
        return features_of(model, backbone.params, {}, {"ids": ids, "mask": mask})

    return run_rows(program, rows, backbone.lengths, backbone.preprocessing.fill, layout=backbone.layout)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the smallest cosine of two rows' features."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-30)).min())


def _bytes(backbone: Backbone) -> int:
    return sum(int(leaf.nbytes) for leaf in jax.tree.leaves(backbone.params))


def _speed(backbone: Backbone, other: Backbone, shapes: Sequence[tuple[int, int]]) -> float:
    """Returns float32's seconds over the other's: the median ratio of each shape, geometric mean over shapes."""
    longest = backbone.lengths[-1]
    fitting = {(rows, longest if backbone.spec.image else min(tokens, longest)) for rows, tokens in shapes}
    logs = []
    for rows, tokens in sorted(fitting):
        ratios = []
        for turn in range(ROUNDS + 1):
            seconds = [_seconds(trunk, rows, tokens) for trunk in (backbone, other)]
            if turn:  # the first one compiles
                ratios.append(seconds[0] / seconds[1])
        logs.append(math.log(float(np.median(ratios))))
    return math.exp(sum(logs) / len(logs))


def _seconds(backbone: Backbone, rows: int, tokens: int) -> float:
    """Returns the seconds of one forward pass."""
    model = GraftModel(backbone.network, (Probe(),), Classification(), ("0", "1"))
    inputs: dict[str, Any] = {"ids": backbone.made_up_ids(rows, tokens), "mask": np.ones((rows, tokens), bool)}
    start = time.perf_counter()
    states = states_at(model, backbone.params, {}, inputs, (backbone.spec.blocks,))
    jax.block_until_ready(states)  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def _right(calibration: Calibration, backbone: Backbone) -> np.ndarray:
    """Returns which rows a probe on this trunk answers right when it was fitted to the others, bool [N]."""
    model, examples = calibration.model, calibration.rows
    keys = [row_key(row) for row in examples.rows]
    features = _features(model, backbone, examples.rows)
    logits = cross_fitted_logits(model, features, examples.labels, keys, calibration.metric)
    return np.asarray(logits.argmax(axis=1) == examples.labels)


def _scored(figures: Measured, before: np.ndarray, after: np.ndarray) -> Measured:
    """Returns the figures with score, loss and the standard error of the loss (McNemar's, of the rows that differ)."""
    lost = float(before.mean() - after.mean())
    noise = math.sqrt(int((before != after).sum())) / len(before)
    return Measured(
        figures.precision,
        figures.speed,
        figures.bytes,
        figures.cosine,
        round(float(after.mean()), 5),
        round(lost, 5),
        round(noise, 5),
    )
