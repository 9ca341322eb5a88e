"""The front of a search: which points nothing beats, why the others are beaten, and how brittle each one is.

A point dominates another if no objective is worse and one is better (Pareto). Points compare once their whole plan
was trained, or as much of it as of any. A score has an interval over resampled rows. Two scores have a noise, the
spread of their difference on the same draws. Imports no jax.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from adapters.target import Target
from trainers.search.pieces import Piece
from trainers.search.space import Point, control_of

HIGHER = ("score",)  # objectives of which more is better
INTERVAL = (0.025, 0.975)  # quantiles of the draws between which the interval of a score lies
LIMITS = {"max_latency_ms": "latency", "max_cpu_seconds": "cpu_seconds", "min_score": "score"}  # objective of a limit


def noise(one: Piece, other: Piece) -> float:
    """Returns the spread of the difference of two scores over the same resampled rows."""
    return float(np.std(np.array(one.draws) - np.array(other.draws)))


def vector(piece: Piece, objectives: Sequence[str]) -> tuple[float, ...]:
    """Returns the objectives of a point, each so that less is better."""
    return tuple(-piece.measures[name] if name in HIGHER else piece.measures[name] for name in objectives)


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Returns whether `one` is nowhere worse and somewhere better; less is better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def layers(vectors: Sequence[Sequence[float]]) -> list[list[int]]:
    """Returns the numbers of the vectors in layers: those that nothing dominates, then those of the rest, and so on.

    Source: Goldberg 1989; Deb et al. 2002, section III A.
    """
    left, result = list(range(len(vectors))), []
    while left:
        top = [i for i in left if not any(dominates(vectors[j], vectors[i]) for j in left)]
        result.append(top)
        left = [i for i in left if i not in top]
    return result


@dataclass(frozen=True)
class Candidate:
    """A point that was tried, as a person compares it with others."""

    id: str
    settings: dict[str, str]
    trained: float  # share of its plan that was trained
    score: float
    low: float  # lower end of the score's 95 % interval
    high: float  # upper end
    measures: dict[str, float]  # value of each objective
    cpu_seconds: float  # CPU seconds that the search spent on it
    front: bool  # nothing dominates it, and it keeps the target
    dominated_by: str  # id of the point that dominates it by most; "" for none
    reason: str  # why it is not on the front; "" if it is
    seeds: float | None = None  # spread of the score over points that differ in the seed alone; None: one seed
    neighbours: float | None = None  # largest loss of score at a point that differs in one other setting
    worst_slice: str = ""  # slice of the development rows with the lowest score
    worst_score: float | None = None  # score of that slice
    prediction_cpu_seconds: float | None = None  # CPU seconds of one prediction; None: not measured
    over_random: float | None = None  # score above that on a random subset of its size; None: no such subset


def candidates(
    points: Sequence[Point],
    pieces: Sequence[Piece],
    objectives: Sequence[str],
    target: Target,
    names: Mapping[str, str] = MappingProxyType({}),
    lost: Collection[str] = (),
) -> tuple[Candidate, ...]:
    """Returns every point that was tried, best score first.

    `names` are shown names of the target's limits. A point that is `lost` has no piece of its last rung: it is
    not on the front, and beats no other.
    """
    latest: dict[str, Piece] = {}
    spent: dict[str, float] = {}
    for piece in sorted(pieces, key=lambda piece: piece.rung):
        latest[piece.point] = piece
        spent[piece.point] = spent.get(piece.point, 0.0) + piece.cpu_seconds
    by_id = {point.id: point for point in points}
    stepped = [piece.steps / piece.total for piece in latest.values() if piece.total > 1]
    furthest = max(stepped, default=1.0)  # below 1 where a budget ended the search
    compared = [piece for piece in latest.values() if piece.done or piece.steps / piece.total == furthest]
    kept = [piece for piece in compared if piece.point not in lost and not broken(piece, target, names)]
    result = [
        _candidate(
            by_id[piece.point], piece, spent[piece.point], compared, kept, objectives, broken(piece, target, names)
        )
        for piece in latest.values()
    ]
    result = [
        replace(one, front=False, reason=f"lost after {one.trained:.0%}: the disk was full") if one.id in lost else one
        for one in result
    ]
    result = [_with_brittleness(one, result) for one in result]
    result = [replace(one, over_random=_over_random(by_id[one.id], one, by_id, result)) for one in result]
    return tuple(sorted(result, key=lambda one: (-one.trained, -one.score, one.id)))


def broken(piece: Piece, target: Target, names: Mapping[str, str] = MappingProxyType({})) -> tuple[str, ...]:
    """Returns the limits of the target that a point does not keep, each with its figure; `names` are shown names."""
    result = []
    for name, objective in LIMITS.items():
        limit, value = getattr(target, name), piece.measures.get(objective)
        if limit and value is not None and (value < limit if objective in HIGHER else value > limit):
            result.append(f"{objective} {value:.4g} breaks {names.get(name, f'target.{name}')}={limit:g}")
    return tuple(result)


def _candidate(
    point: Point,
    piece: Piece,
    spent: float,
    compared: Sequence[Piece],
    kept: Sequence[Piece],
    objectives: Sequence[str],
    limits: Sequence[str],
) -> Candidate:
    """Returns a point beside those that were trained as far as any."""
    low, high = np.quantile(piece.draws, INTERVAL) if piece.draws else (piece.score, piece.score)
    rival, reason = None, ""
    if piece not in compared:
        reason = f"given up after {piece.steps / piece.total:.0%} of its training: others were ahead by more than noise"
    elif limits:
        reason = "; ".join(limits)
    else:
        mine = vector(piece, objectives)
        beating = [other for other in kept if dominates(vector(other, objectives), mine)]
        if beating:
            rival = min(beating, key=lambda other: vector(other, objectives))
            reason = why(piece, rival, objectives)
    worst = min(piece.slices, key=lambda name: piece.slices[name], default="")
    return Candidate(
        point.id,
        dict(point.settings),
        piece.steps / piece.total,
        piece.score,
        float(low),
        float(high),
        piece.measures,
        round(spent, 3),
        front=not reason,
        dominated_by=rival.point if rival else "",
        reason=reason,
        worst_slice=worst,
        worst_score=piece.slices.get(worst),
        prediction_cpu_seconds=piece.prediction_cpu_seconds,
    )


def why(piece: Piece, rival: Piece, objectives: Sequence[str]) -> str:
    """Returns in words how `rival` dominates a point, and whether the scores differ by more than noise."""
    parts = []
    for name in objectives:
        mine, theirs = piece.measures[name], rival.measures[name]
        if mine == theirs:
            continue
        parts.append(f"{name} {theirs:.4g} against {mine:.4g}")
        if name == "score":
            spread = noise(piece, rival)
            sure = "beyond" if abs(theirs - mine) > spread else "within"
            parts[-1] += f" ({sure} the noise of {spread:.2g})"
    return f"{rival.point} is nowhere worse: " + ", ".join(parts)


def _with_brittleness(one: Candidate, others: Sequence[Candidate]) -> Candidate:
    """Adds the spread over seeds, and the loss at neighbours that were trained as far."""
    same_seed, losses = [one.score], []
    for other in others:
        names = one.settings.keys() | other.settings.keys()
        apart = [name for name in names if one.settings.get(name) != other.settings.get(name)]
        if len(apart) != 1 or other.trained != one.trained:
            continue
        if apart == ["seed"]:
            same_seed.append(other.score)
        else:
            losses.append(one.score - other.score)
    fields = vars(one) | {
        "seeds": float(np.std(same_seed, ddof=1)) if len(same_seed) > 1 else None,
        "neighbours": max(losses) if losses else None,
    }
    return Candidate(**fields)


def _over_random(point: Point, one: Candidate, by_id: Mapping[str, Point], others: Sequence[Candidate]) -> float | None:
    """Returns how much better a point is than its control, where both were trained as far."""
    control = control_of(point.config)
    if control is None:
        return None
    same = (other for other in others if by_id[other.id].config == control and other.trained == one.trained)
    return next((one.score - other.score for other in same), None)


def recommended(front: Sequence[Candidate], objectives: Sequence[str]) -> str:
    """Returns the id of the front's best score, at a tie the one that costs less; "" for an empty front."""
    costs = [name for name in objectives if name not in HIGHER]

    def order(one: Candidate) -> tuple[float, ...]:
        return (-one.score, *(one.measures[name] for name in costs), one.cpu_seconds)

    on_front = [one for one in front if one.front]
    return min(on_front, key=order).id if on_front else ""


def savings(choice: Candidate, other: Candidate) -> float | None:
    """Returns the CPU seconds that a choice saves in a million predictions; None where one was not measured."""
    if choice.prediction_cpu_seconds is None or other.prediction_cpu_seconds is None:
        return None
    return 1e6 * (other.prediction_cpu_seconds - choice.prediction_cpu_seconds)


def break_even(cost: float, saved_per_million: float | None) -> float | None:
    """Returns the millions of predictions after which a search of `cost` CPU seconds is paid back; None: never."""
    return cost / saved_per_million if saved_per_million and saved_per_million > 0 else None
