"""Linear heads on pooled states, compared on rows that they have not seen; the best is fitted to every row.

    comparison = on_several(model, rows, on_last(model, rows))
    params = fitted_to_all(comparison.options[comparison.best], comparison.factors[comparison.best], model, rows)

Few rows are compared out of fold: each row is scored by heads fitted to the other folds. Many are compared on a
held-out share. Either way the chosen head is then fitted to the held-out rows too, so no label is lost. Rows of a
user's own development file are never fitted.

Options are compared by their loss at their best temperature, row by row. On few rows the smallest loss is mostly
chance, so the first option stays unless another is better by CAUTION standard errors.

Shapes: `N` rows, `L` blocks, `P` width of a pooled state, `F` features, `r` directions of the rows, `C` outputs, `K`
heads of an option.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jax
import numpy as np
import scipy.optimize

from adapters.heads.head import UNLIKELY, Head
from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.trees import Params
from metering.one_thread import one_thread
from trainers.fitting.discriminant import Scatter, scatter_of
from trainers.fitting.features import of_pooled
from trainers.fitting.head_options import (
    LAST,
    HeadOption,
    LinearHead,
    are_few,
    average_on,
    evidence,
    evidence_without,
    options_on,
    several_states,
)
from trainers.fitting.label_names import Names, discriminants
from trainers.fitting.linear_head import ROUGH, TOLERANCE, fit_rows

OUT_OF_FOLD = "out of fold"  # of scores by heads that were fitted to the other folds
FEW = 2000  # rows below which heads are compared out of fold
FOLDS = 5  # parts of the rows in a comparison out of fold
HELD_OUT = 10  # of many rows without development rows, every tenth is held out
CAUTION = 2.0  # standard errors of the difference by which an option must beat the first one
ABSENT = 10.0  # how far the logit of a label that no row had lies below the smallest of the others
TEMPERATURES = (-7.0, 1.0)  # logarithms of the factors of logits between which the best is sought


@dataclass(frozen=True)
class Part:
    """A part of the rows that is scored by heads fitted to others."""

    fitted: np.ndarray  # bool [N]
    scored: np.ndarray  # bool [N]


@dataclass(frozen=True)
class LabelledStates:
    """The rows of a task as pooled states, and who may see what."""

    pooled: np.ndarray  # pooled states of every boundary, float32 [N,L+1,P]
    labels: np.ndarray  # labels as the head encodes them, [N] or [N,C]
    final: np.ndarray  # rows that the chosen head is fitted to, bool [N]
    is_dev: np.ndarray  # development rows, bool [N]
    parts: tuple[Part, ...]  # comparison; no row is scored twice
    how: str  # origin of the scores: "out of fold" or "held out"
    names: Names | None = None  # pooled states of the names of labels, float32 [K,L+1,P]; None: not read

    @property
    def scored(self) -> np.ndarray:
        """Returns the rows that are scored in the comparison, bool [N]."""
        return np.any([part.scored for part in self.parts], axis=0) if self.parts else np.zeros(len(self.final), bool)


@dataclass(frozen=True)
class Comparison:
    """Options with what they say of rows that they have not seen; the first is preferred."""

    options: tuple[HeadOption, ...]
    logits: tuple[np.ndarray, ...]  # logits float32 [N,C] at the best temperature; zero where a row is not scored
    factors: tuple[tuple[float, ...], ...]  # factors of each option's heads; their sum gives its logits
    losses: np.ndarray  # loss of each option and scored row, [O,M]
    unseen: Mapping[LinearHead, np.ndarray] = field(default_factory=dict)  # logits [N,C] of each head, not scaled

    @cached_property
    def best(self) -> int:
        """Returns the place of the best option."""
        return best_of(self.losses)

    def before(self, other: Comparison) -> Comparison:
        """Returns one comparison of these options and then those of `other`, on the same rows."""
        return Comparison(
            self.options + other.options,
            self.logits + other.logits,
            self.factors + other.factors,
            np.concatenate([self.losses, other.losses]),
            {**self.unseen, **other.unseen},
        )

    def __str__(self) -> str:
        if not self.losses.size:
            return "no row to compare it on"
        means = self.losses.mean(axis=1)
        return f"loss {means[self.best]:.4f}, of {len(means)} options {means.min():.4f} to {means.max():.4f}"


def labelled_states(
    pooled: tuple[np.ndarray, np.ndarray | None],
    labels: tuple[np.ndarray, np.ndarray | None],
    keys: Sequence[bytes],
    *,
    shared: bool,
    names: Names | None = None,
) -> LabelledStates:
    """Returns the rows of (train, dev) with the comparison that suits their number.

    `keys` name the inputs: rows of one key share a fold. Development rows are fitted in the end if they are `shared`,
    and only chosen by otherwise.
    """
    train, dev = len(labels[0]), 0 if labels[1] is None else len(labels[1])
    every = np.concatenate([part for part in pooled if part is not None])
    target = np.concatenate([part for part in labels if part is not None])
    is_dev = np.arange(train + dev) >= train
    final = np.ones(train + dev, bool) if shared else ~is_dev
    if (few := int(final.sum()) < FEW) or not dev:
        fold = np.full(train + dev, -1)
        fold[final] = folds(target[final], [keys[i] for i in np.flatnonzero(final).tolist()])
        parts = [Part(final & (fold != k), fold == k) for k in (range(fold.max() + 1) if few else (0,))]
        if not shared and dev:
            parts.append(Part(final, is_dev))
    else:
        parts = [Part(~is_dev, is_dev)]
    parts = [part for part in parts if part.fitted.any() and part.scored.any()]
    return LabelledStates(every, target, final, is_dev, tuple(parts), OUT_OF_FOLD if few else "held out", names)


def folds(labels: np.ndarray, keys: Sequence[bytes]) -> np.ndarray:
    """Returns the fold of each row, int [N]: every label, and every range of numbers, in each; equal keys in one."""
    count = FOLDS if len(labels) < FEW else HELD_OUT
    stratum = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    fold_of: dict[bytes, int] = {}
    fold = np.zeros(len(labels), int)
    for row in np.argsort(stratum, kind="stable"):
        fold[row] = fold_of.setdefault(keys[int(row)], len(fold_of) % count)
    return fold


@one_thread()
def compared(
    options: Sequence[HeadOption], model: GraftModel, rows: LabelledStates, known: Comparison | None = None
) -> Comparison:
    """Scores each option on rows that its heads have not seen; what is `known` of a head is not computed again.

    Rows whose label no fitted row had say nothing about an option, and have no loss.
    """
    unseen = {} if known is None else dict(known.unseen)
    heads = [head for option in options for head in option.heads if head not in unseen]
    for probe in dict.fromkeys(head.probe for head in heads):
        group = [head for head in dict.fromkeys(heads) if head.probe == probe]
        unseen |= zip(group, Problem.of(probe, model, rows).unseen(group, rows.parts), strict=True)
    learnable = _learnable(model.head, rows)
    labels = rows.labels[learnable]
    averages = [
        _averaged(np.stack([unseen[one] for one in option.heads]), model.head, labels, learnable) for option in options
    ]
    losses = np.array([model.head.host_loss(one[learnable], labels) for one, _ in averages]).reshape(len(options), -1)
    scaled, factors = zip(*averages, strict=True)
    return Comparison(tuple(options), scaled, factors, losses, unseen)


def on_last(model: GraftModel, rows: LabelledStates) -> Comparison:
    """Compares heads on the last state alone."""
    if are_few(int(rows.final.sum()), len(model.labels)):
        return compared(average_on((LAST,), model.head, rows.names is not None), model, rows)
    return compared(options_on((LAST,), model.head), model, rows)


def on_several(model: GraftModel, rows: LabelledStates, known: Comparison) -> Comparison:
    """Compares heads on the states of several boundaries; an average of few rows reads the last state alone too."""
    several = several_states(model.network.spec)
    if are_few(int(rows.final.sum()), len(model.labels)):
        return compared(average_on((several[0], LAST), model.head, rows.names is not None), model, rows, known)
    return compared(options_on(several, model.head), model, rows)


def _averaged(
    logits: np.ndarray, head: Head, labels: np.ndarray, learnable: np.ndarray
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Returns the average [N,C] of logits [K,N,C] at its best temperature, and the factor of each head in it.

    No row has a say in the weights of its own average.
    """
    best = np.array([temperature(head, one[learnable], labels) for one in logits])
    scaled = best[:, None, None].astype(np.float32) * logits
    if len(scaled) == 1:
        return scaled[0], (float(best[0]),)
    losses = np.array([head.host_loss(one[learnable], labels) for one in scaled]).reshape(len(scaled), -1)
    average = np.einsum("k,knc->nc", evidence(losses), scaled)
    average[learnable] = np.einsum("km,kmc->mc", evidence_without(losses), scaled[:, learnable])
    whole = temperature(head, average[learnable], labels)
    return (whole * average).astype(np.float32), tuple((whole * evidence(losses) * best).tolist())


def _learnable(head: Head, rows: LabelledStates) -> np.ndarray:
    """Returns the scored rows whose label other rows had that their heads were fitted to, bool [N]."""
    learnable = rows.scored
    if (classes := head.classes(rows.labels)) is not None:
        for part in rows.parts:
            learnable[part.scored] = np.isin(classes[part.scored], classes[part.fitted])
    return learnable


@one_thread()
def fitted_to_all(option: HeadOption, factors: Sequence[float], model: GraftModel, rows: LabelledStates) -> Params:
    """Returns kernel float32 [F,C] and bias [C] of an option, fitted to every row that may be fitted.

    It is the sum of the option's heads, times their `factors`, on the features of the option's probe.
    """
    whole = probe_model(model, option.probe)
    kernel = np.zeros((whole.feature_width, len(model.labels)))
    bias = np.zeros(len(model.labels))
    for probe in dict.fromkeys(head.probe for head in option.heads):
        problem, places = Problem.of(probe, model, rows), _places(probe, whole)
        chosen = [place for place, head in enumerate(option.heads) if head.probe == probe]
        fitted = problem.fitted([option.heads[place] for place in chosen], rows.final, TOLERANCE)
        for place, params in zip(chosen, map(problem.expanded, fitted), strict=True):
            kernel[places] += factors[place] * (len(kernel) / len(places)) ** 0.5 * params["kernel"]
            bias += factors[place] * params["bias"]
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def _places(probe: Probe, whole: GraftModel) -> np.ndarray:
    """Returns the places of a probe's features among those of `whole`, which reads the same states and more.

    The features of both have length 1, so each state is shorter in the wider one.
    """
    places = np.arange(whole.feature_width).reshape(len(whole.taps), -1)
    return places[[whole.taps.index(tap) for tap in probe.taps(whole.network.spec)]].reshape(-1)


def best_of(losses: np.ndarray) -> int:
    """Returns the place of the best option from losses [K,M] of M rows; the first is preferred."""
    if losses.shape[1] < 2:
        return 0
    gain = losses[0] - losses
    lower = gain.mean(axis=1) - CAUTION * gain.std(axis=1, ddof=1) / np.sqrt(losses.shape[1])
    place = int(lower.argmax())
    return place if lower[place] > 0 else 0


def temperature(head: Head, logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the factor of logits [M,C] with the smallest mean loss; 1 where they are no probabilities."""
    if head.output != "probabilities" or not len(labels):
        return 1.0

    def loss(power: float) -> float:
        return float(head.host_loss(np.float32(np.exp(power)) * logits, labels).mean())

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x))


def probe_model(model: GraftModel, probe: Probe) -> GraftModel:
    """Returns the head of `model` on the features of a probe."""
    return GraftModel(model.network, (probe,), model.head, model.labels)


def rounded_up(count: int) -> int:
    """Returns a size of at least `count`, by an eighth larger at most, that many counts share.

    Rows and directions beyond `count` are zeros without weight. So some new rows mean no new program to compile.
    """
    step = max(8, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def _bounded(logits: np.ndarray) -> np.ndarray:
    """Returns logits [M,C] in which a label that no row had is unlikely, but not without bound."""
    absent = logits < UNLIKELY / 2
    return np.where(absent, np.where(absent, np.inf, logits).min(axis=1, keepdims=True) - ABSENT, logits)


@dataclass(frozen=True)
class Problem:
    """Features of the rows, in as few directions as they span, with their labels."""

    head: Head
    names: int  # C
    x: np.ndarray  # features float32 [N,r]
    basis: np.ndarray | None  # directions float32 [F,r] that `x` is written in; None where they are the features
    width: int  # F
    labels: np.ndarray
    named: Names | None = None  # features of the names of labels float32 [K,r], in the same directions

    @classmethod
    def of(cls, probe: Probe, model: GraftModel, rows: LabelledStates) -> Problem:
        """Returns the problem of a probe's features.

        Fewer rows than features are turned into a basis of their own, which changes no fit and makes each small.
        """
        count = len(rows.pooled)
        pooled = rows.pooled if rows.names is None else np.concatenate([rows.pooled, rows.names.states])
        x, basis = of_pooled(probe_model(model, probe), pooled).astype(np.float32), None
        width = x.shape[1]
        if len(x) < width:
            basis, upper = np.linalg.qr(x.T)
            x = np.ascontiguousarray(upper.T)
        named = None if rows.names is None else Names(x[count:], rows.names.classes)
        return cls(model.head, len(model.labels), x[:count], basis, width, rows.labels, named)

    def unseen(self, group: Sequence[LinearHead], parts: Sequence[Part]) -> list[np.ndarray]:
        """Returns logits float32 [N,C] for each head: of a part's rows by heads fitted to its others, else zero."""
        logits = [np.zeros((len(self.x), self.names), np.float32) for _ in group]
        for part in parts:
            for params, of_head in zip(self.fitted(group, part.fitted, ROUGH), logits, strict=True):
                of_head[part.scored] = _bounded(self.x[part.scored] @ params["kernel"] + params["bias"])
        return logits

    def fitted(self, group: Sequence[LinearHead], rows: np.ndarray, tolerance: float) -> list[Params]:
        """Returns each head, in the directions of `x`, fitted to the rows where `rows` is true.

        Discriminants of one shrinkage share a factorisation; a head by loss starts from what the one before left.
        """
        results: dict[LinearHead, Params] = {}
        scatter = self._scatter(rows) if any(head.shrinkage is not None for head in group) else None
        for shrinkage in dict.fromkeys(head.shrinkage for head in group if head.shrinkage is not None):
            assert scatter is not None
            alike = [head for head in group if head.shrinkage == shrinkage]
            pulls = [head.pull for head in alike]
            results |= zip(alike, discriminants(scatter, shrinkage, self.named, pulls), strict=True)
        by_loss = [head for head in group if head.shrinkage is None]
        results |= zip(by_loss, self._by_loss([head.strength for head in by_loss], rows, tolerance), strict=True)
        return [results[head] for head in group]

    def _by_loss(self, strengths: Sequence[float], rows: np.ndarray, tolerance: float) -> Iterator[Params]:
        """Yields the head of each strength, fitted by its loss in rows and directions that are rounded up."""
        count, width = self.x.shape
        more = rounded_up(count) - count
        wide = width if self.basis is None else rounded_up(width)
        x = jax.device_put(np.pad(self.x, ((0, more), (0, wide - width))))
        labels = jax.device_put(np.pad(self.labels, ((0, more), *((0, 0),) * (self.labels.ndim - 1))))
        params: Params = {"kernel": np.zeros((wide, self.names), np.float32), "bias": np.zeros(self.names, np.float32)}
        for strength in strengths:
            params = fit_rows(self.head, x, labels, np.pad(rows, (0, more)), strength, params, tolerance)
            yield {"kernel": params["kernel"][:width], "bias": params["bias"]}

    def _scatter(self, rows: np.ndarray) -> Scatter:
        """Returns the scatter of the rows where `rows` is true."""
        classes = self.head.classes(self.labels[rows])
        assert classes is not None
        return scatter_of(self.x[rows], classes, self.names, self.width)

    def expanded(self, params: Params) -> Params:
        """Returns the head on the features themselves."""
        kernel = params["kernel"] if self.basis is None else self.basis @ params["kernel"]
        return {"kernel": kernel, "bias": params["bias"]}
