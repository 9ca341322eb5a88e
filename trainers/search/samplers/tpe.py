"""The tree-structured Parzen estimator by Optuna (`pip install topgraft[tpe]`), also for several objectives.

Source: Bergstra et al. 2011; Ozaki et al. 2022 for several objectives. The study is made anew from the stored pieces
before each choice, so it is the same after a kill. Fields whose values are numbers keep their order. A proposal that is
no point, or was tried, is drawn again; then the untried point with the most of its settings is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from backbone.errors import InputError
from trainers.search.front import vector
from trainers.search.pieces import Piece
from trainers.search.samplers.sampler import Sampler, untried
from trainers.search.space import Point

DRAWN = 4  # share of the points that are drawn before the estimate counts: one of so many, and four at least
TRIES = 20  # proposals that are made until one is an untried point


@dataclass(frozen=True)
class TPE(Sampler, tag="tpe"):
    """Points like those that were good, and unlike those that were not."""

    learns: ClassVar[bool] = True

    def require(self) -> None:
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise InputError("--sampler: tpe needs optuna: pip install topgraft[tpe], or use random") from error

    def choose(
        self, points: Sequence[Point], pieces: Sequence[Piece], objectives: Sequence[str], seed: int, count: int
    ) -> list[str]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        drawn = max(4, count // DRAWN)
        sampler = optuna.samplers.TPESampler(seed=(seed + len(pieces)) % 2**32, n_startup_trials=drawn)
        study = optuna.create_study(directions=["minimize"] * len(objectives), sampler=sampler)
        grids, by_id = grids_of(points), {point.id: point for point in points}
        for piece in pieces:
            one = _described(dict(by_id[piece.point].settings), grids)
            values = list(vector(piece, objectives))
            study.add_trial(
                optuna.trial.create_trial(params=dict(one.params), distributions=dict(one.distributions), values=values)
            )
        left = {frozenset(point.settings): point.id for point in untried(points, pieces)}
        proposal = frozenset[tuple[str, str]]()
        for _ in range(TRIES):
            proposal = frozenset(_proposed(study.ask(), grids).items())
            if proposal in left:
                return [left[proposal]]
        return [left[max(left, key=lambda settings: (len(settings & proposal), left[settings]))]]


def grids_of(points: Sequence[Point]) -> dict[str, dict[str, list[str]]]:
    """Returns the values of each field, numbers in their order, by the fields of a grid, which are its name."""
    grids: dict[str, dict[str, list[str]]] = {}
    for point in points:
        grid = grids.setdefault(" ".join(name for name, _ in point.settings), {})
        for name, value in point.settings:
            values = grid.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {key: {name: _ordered(values) for name, values in grid.items()} for key, grid in grids.items()}


def _ordered(values: list[str]) -> list[str]:
    """Returns numbers from small to large; other values as they are."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return values


def _is_ordered(values: list[str]) -> bool:
    return len(values) > 2 and all(value.replace(".", "", 1).replace("e-", "", 1).isdecimal() for value in values)


def _name(field: str, values: list[str]) -> str:
    """Returns the name of a parameter; grids with the same values of a field share it."""
    return f"{field}: {' '.join(values)}"


def _proposed(trial: Any, grids: Mapping[str, Mapping[str, list[str]]]) -> dict[str, str]:
    """Returns the settings that a trial of the study proposes."""
    grid = grids[trial.suggest_categorical("grid", list(grids))]
    return {
        field: values[trial.suggest_int(_name(field, values), 0, len(values) - 1)]
        if _is_ordered(values)
        else trial.suggest_categorical(_name(field, values), values)
        for field, values in grid.items()
    }


@dataclass(frozen=True)
class Described:
    """A point in Optuna's terms."""

    params: Mapping[str, str | int]  # value of each parameter
    distributions: Mapping[str, Any]  # distribution of each parameter


def _described(settings: Mapping[str, str], grids: Mapping[str, Mapping[str, list[str]]]) -> Described:
    """Returns a point as parameters and their distributions."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

    key = " ".join(settings)
    params: dict[str, str | int] = {"grid": key}
    distributions: dict[str, BaseDistribution] = {"grid": CategoricalDistribution(list(grids))}
    for field, values in grids[key].items():
        name = _name(field, values)
        if _is_ordered(values):
            params[name], distributions[name] = values.index(settings[field]), IntDistribution(0, len(values) - 1)
        else:
            params[name], distributions[name] = settings[field], CategoricalDistribution(values)
    return Described(params, distributions)
