"""The decision of a person about a search, written into the registry. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError
from backbone.records import decode, digest, encode
from backbone.texts import parse_json
from registry.decisions import decide as store_decision
from registry.decisions import value_at
from registry.place import Place
from trainers.config import TrainConfig
from trainers.config.load import override
from trainers.retrain.fingerprint import read as read_rows
from trainers.runs.workdir import CONFIG
from trainers.search.result import SearchResult, read_result


@dataclass(frozen=True)
class Decided:
    """The result of `search decide`."""

    task: str
    number: int  # number of the decision about the task
    choice: str  # id of the point
    settings: dict[str, str]  # settings of the point, as for --set
    by: str
    why: str
    against: str  # why the point is not on the front; "" if it is
    recommended: str  # id of the point that the search recommended
    registry: str  # URL


def decide(run: str, choose: str, *, by: str, why: str, place: Place) -> Decided:
    """Writes who chose which point of a search, and why; raises InputError for rows that have changed since.

    A point that is dominated, or that breaks the target, may be chosen: what speaks against it goes on record.
    """
    result = read_result(run)
    point = result.candidate(choose)
    config = _config_of(Path(run))
    _require_same_rows(result, config)
    values = encode(override(config, [f"{name}={value}" for name, value in point.settings.items()]))
    registry = place.open(create=True)
    try:
        decision = store_decision(
            registry,
            result.name,
            search=digest([result.rows, list(result.objectives), [encode(one) for one in result.candidates]]),
            choice=point.id,
            settings={name: value_at(values, name) for name in point.settings},
            facts={
                "metric": result.metric,
                "score": point.score,
                "low": point.low,
                "high": point.high,
                "measures": point.measures,
                "against": point.reason,
                "recommended": result.recommended,
                "search_cpu_seconds": result.cpu_seconds,
                "rows": result.rows,
                "tried": len(result.candidates),
            },
            actor=by,
            reason=why,
        )
        where = registry.database.where
    finally:
        registry.close()
    return Decided(
        result.name, decision.number, point.id, point.settings, by, why, point.reason, result.recommended, where
    )


def _config_of(folder: Path) -> TrainConfig:
    """Returns the config over which a search ran."""
    path = folder / CONFIG
    try:
        values = parse_json(path.read_text(encoding="utf-8"), str(path))
        return decode(TrainConfig, values["config"])
    except (OSError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); search again") from error


def _require_same_rows(result: SearchResult, config: TrainConfig) -> None:
    """Raises InputError if the files of the task hold other rows than the search compared on."""
    now = read_rows(config).prints
    changed = [name for name in sorted(now.keys() | result.rows.keys()) if now.get(name) != result.rows.get(name)]
    if changed:
        raise InputError(
            f"{result.workdir}: rows of {', '.join(changed)} have changed since the search, which knows nothing of "
            "them; search again"
        )
