"""Linear heads on pooled states, compared on rows that they have not seen; the best is fitted to every row.

    comparison = compared(options_on(several_states(spec), head), model, rows)
    params = fitted_to_all(comparison.options[comparison.best], comparison.factors[comparison.best], model, rows)

Few rows are compared out of fold: each row is scored by heads fitted to the other folds. Many are compared on a
held-out share. Either way the chosen head is then fitted to the held-out rows too, so no label is lost. Rows of a
user's own development file are never fitted.

Where rows are few and labels are named in words, the text of a label's name counts as a row of it. Few rows say little
about a class that its name says at once (`NAMED_ROWS`).

Options are compared by their loss at their best temperature, row by row. On few rows the smallest loss is mostly
chance, so the first option stays unless another is better by CAUTION standard errors. The order and the numbers come
from docs/decisions.md, "No label is wasted".

Shapes: `N` rows, `L` blocks, `P` width of a pooled state, `F` features, `r` directions of the rows, `C` outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
import scipy.optimize

from adapters.heads.head import UNLIKELY, Head
from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.spec import EncoderSpec
from backbone.trees import Params
from trainers.fitting.discriminant import Scatter, discriminant, scatter_of
from trainers.fitting.features import of_pooled
from trainers.fitting.linear_head import ROUGH, TOLERANCE, fit_rows

OUT_OF_FOLD = "out of fold"  # of scores by heads that were fitted to the other folds
FEW = 2000  # rows below which heads are compared out of fold
FOLDS = 5  # parts of the rows in a comparison out of fold
HELD_OUT = 10  # of many rows without development rows, every tenth is held out
CAUTION = 2.0  # standard errors of the difference by which an option must beat the first one
SHRINKAGES = (0.3, 0.03, 0.1, 0.6)  # of the covariance of a discriminant; the first is preferred
STRENGTHS = (10.0, 100.0)  # of a logistic regression: its C, as scikit-learn defines it
OTHER_STRENGTHS = (10.0, 1.0, 100.0)  # of heads that have no discriminant
NAMED_ROWS = 20  # rows of a label, in the mean, up to which its name counts as one
ABSENT = 10.0  # how far the logit of a label that no row had lies below the smallest of the others
TEMPERATURES = (-7.0, 1.0)  # logarithms of the factors of logits between which the best is sought


@dataclass(frozen=True)
class HeadOption:
    """A kind of linear head, on some pooled states."""

    probe: Probe  # features
    shrinkage: float | None = None  # shrinkage of a discriminant; None: fitted by the head's loss
    strength: float = 10.0  # C of a head that is fitted by its loss
    named: bool = False  # the name of each label counts as a row of it

    def __str__(self) -> str:
        kind = f"loss, C {self.strength:g}" if self.shrinkage is None else f"discriminant, shrinkage {self.shrinkage:g}"
        kind += ", with the names of labels" if self.named else ""
        states = ", ".join(map(str, self.probe.boundaries)) or "all"
        return f"{kind}, boundaries {states}"


LAST = Probe(unit=True)  # the last state alone, at unit length


def options_on(probes: Sequence[Probe], head: Head, named: bool = False) -> tuple[HeadOption, ...]:
    """Returns the options on some features; of a kind of head, the preferred number first.

    Where labels are `named`, those that read the names come first.
    """
    if head.classes(np.zeros(0, np.int32)) is None:
        return tuple(HeadOption(probe, None, strength) for probe in probes for strength in OTHER_STRENGTHS)
    closed = tuple(
        HeadOption(probe, shrinkage, named=with_names)
        for with_names in ((True, False) if named else (False,))
        for probe in probes
        for shrinkage in SHRINKAGES
    )
    return closed + tuple(HeadOption(probe, None, c) for probe in probes if probe == LAST for c in STRENGTHS)


def options_on_one(probe: Probe, head: Head, named: bool = False) -> tuple[HeadOption, ...]:
    """Returns the options where the features are given: also those by loss, whatever is read."""
    by_loss = (HeadOption(probe, None, strength) for strength in STRENGTHS)
    return tuple(dict.fromkeys((*options_on((probe,), head, named), *by_loss)))


def several_states(spec: EncoderSpec) -> tuple[Probe, ...]:
    """Returns the features of several boundaries, at unit length: those of the upper half, then all."""
    upper = tuple(range(spec.blocks // 2 + 1, spec.blocks + 1))
    every = Probe(boundaries=(), unit=True)
    return (Probe(boundaries=upper, unit=True), every) if len(upper) > 1 else (every,)


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
    names: np.ndarray | None = None  # pooled states of the names of labels, float32 [C,L+1,P]; None: not read

    @property
    def scored(self) -> np.ndarray:
        """Returns the rows that are scored in the comparison, bool [N]."""
        return np.any([part.scored for part in self.parts], axis=0) if self.parts else np.zeros(len(self.final), bool)


@dataclass(frozen=True)
class Comparison:
    """Options with what they say of rows that they have not seen; the first is preferred."""

    options: tuple[HeadOption, ...]
    logits: tuple[np.ndarray, ...]  # logits float32 [N,C] at the best temperature; zero where a row is not scored
    factors: tuple[float, ...]  # what the logits were multiplied with
    losses: np.ndarray  # loss of each option and scored row, [K,M]

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
    names: np.ndarray | None = None,
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


def compared(options: Sequence[HeadOption], model: GraftModel, rows: LabelledStates) -> Comparison:
    """Scores each option on rows that its heads have not seen.

    Rows whose label no fitted row had say nothing about an option, and have no loss.
    """
    head = model.head
    logits: dict[HeadOption, np.ndarray] = {}
    for probe in dict.fromkeys(option.probe for option in options):
        group = [option for option in options if option.probe == probe]
        logits |= zip(group, Problem.of(probe, model, rows).unseen(group, rows.parts), strict=True)
    learnable = _learnable(head, rows)
    labels = rows.labels[learnable]
    factors = tuple(temperature(head, logits[option][learnable], labels) for option in options)
    scaled = tuple(factor * logits[option] for factor, option in zip(factors, options, strict=True))
    losses = np.array([head.host_loss(one[learnable], labels) for one in scaled]).reshape(len(options), -1)
    return Comparison(tuple(options), scaled, factors, losses)


def _learnable(head: Head, rows: LabelledStates) -> np.ndarray:
    """Returns the scored rows whose label other rows had that their heads were fitted to, bool [N]."""
    learnable = rows.scored
    if (classes := head.classes(rows.labels)) is not None:
        for part in rows.parts:
            learnable[part.scored] = np.isin(classes[part.scored], classes[part.fitted])
    return learnable


def fitted_to_all(option: HeadOption, factor: float, model: GraftModel, rows: LabelledStates) -> Params:
    """Returns kernel float32 [F,C] and bias [C] of an option, fitted to every row that may be fitted."""
    problem = Problem.of(option.probe, model, rows)
    return problem.expanded(problem.fitted(option, rows.final, TOLERANCE), factor)


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
    named: np.ndarray | None = None  # features of the names of labels float32 [C,r], in the same directions

    @classmethod
    def of(cls, probe: Probe, model: GraftModel, rows: LabelledStates) -> Problem:
        """Returns the problem of a probe's features.

        Fewer rows than features are turned into a basis of their own, which changes no fit and makes each small.
        """
        count = len(rows.pooled)
        pooled = rows.pooled if rows.names is None else np.concatenate([rows.pooled, rows.names])
        x, basis = of_pooled(probe_model(model, probe), pooled).astype(np.float32), None
        width = x.shape[1]
        if len(x) < width:
            basis, upper = np.linalg.qr(x.T)
            x = np.ascontiguousarray(upper.T)
        named = None if rows.names is None else x[count:]
        return cls(model.head, len(model.labels), x[:count], basis, width, rows.labels, named)

    def unseen(self, group: Sequence[HeadOption], parts: Sequence[Part]) -> list[np.ndarray]:
        """Returns logits float32 [N,C] for each option: of a part's rows by heads fitted to its others, else zero."""
        logits = [np.zeros((len(self.x), self.names), np.float32) for _ in group]
        for part in parts:
            solve = self._solver(part.fitted, ROUGH)
            for option, of_option in zip(group, logits, strict=True):
                params = solve(option)
                of_option[part.scored] = _bounded(self.x[part.scored] @ params["kernel"] + params["bias"])
        return logits

    def fitted(self, option: HeadOption, rows: np.ndarray, tolerance: float) -> Params:
        """Returns the option's head, in the directions of `x`, fitted to the rows where `rows` is true."""
        return self._solver(rows, tolerance)(option)

    def _solver(self, rows: np.ndarray, tolerance: float) -> Callable[[HeadOption], Params]:
        """Returns a function that fits options to the same rows; each starts from what the one before left."""
        scatters: dict[bool, Scatter] = {}
        count, width = self.x.shape
        more = (rounded_up(count) - count, 0 if self.basis is None else rounded_up(width) - width)
        x = jax.device_put(np.pad(self.x, ((0, more[0]), (0, more[1]))))
        labels = jax.device_put(np.pad(self.labels, ((0, more[0]), *((0, 0),) * (self.labels.ndim - 1))))
        rows_fitted = np.pad(rows, (0, more[0]))
        params: Params = {
            "kernel": np.zeros((width + more[1], self.names), np.float32),
            "bias": np.zeros(self.names, np.float32),
        }

        def solve(option: HeadOption) -> Params:
            nonlocal params
            if option.shrinkage is not None:
                if option.named not in scatters:
                    scatters[option.named] = self._scatter(rows, option.named)
                return discriminant(scatters[option.named], option.shrinkage)
            params = fit_rows(self.head, x, labels, rows_fitted, option.strength, params, tolerance)
            return {"kernel": params["kernel"][:width], "bias": params["bias"]}

        return solve

    def _scatter(self, rows: np.ndarray, named: bool) -> Scatter:
        """Returns the scatter of the rows where `rows` is true, and of the names of labels where they count."""
        x, classes = self.x[rows], self.head.classes(self.labels[rows])
        assert classes is not None
        if named:
            assert self.named is not None
            x, classes = np.concatenate([x, self.named]), np.append(classes, np.arange(self.names))
        return scatter_of(x, classes, self.names, self.width)

    def expanded(self, params: Params, factor: float) -> Params:
        """Returns the head on the features themselves, its logits times `factor`."""
        kernel = params["kernel"] if self.basis is None else self.basis @ params["kernel"]
        return {"kernel": (factor * kernel).astype(np.float32), "bias": (factor * params["bias"]).astype(np.float32)}
