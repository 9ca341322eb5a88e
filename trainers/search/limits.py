"""The limits that a search judges its points by: the narrowest of the config's target and the team's budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from adapters.target import Target
from metering.window import platform
from registry.budgets.budget import Budget
from trainers.config import TrainConfig
from trainers.search.front import LIMITS
from trainers.search.space import require_checked


@dataclass(frozen=True)
class Limits:
    """The limits of a search."""

    target: Target
    names: dict[str, str] = field(default_factory=dict)  # shown name of a limit that the budget sets, by field
    unchecked: tuple[str, ...] = ()  # limits of the budget that a search does not check


def limits_of(config: TrainConfig, budget: Budget) -> Limits:
    """Returns the limits over a config; raises InputError for one of the config that a search does not check.

    A budget is about every verb, so what a search cannot check of it is listed, and left to the gate.
    """
    require_checked(config)
    config.target.require_platform(platform(), "the search")
    budget.require_metrics(config.head.metrics)
    narrowed = budget.narrowed(config.target)
    here = budget.platform in ("", platform())
    names = {
        name: shown for name, shown in narrowed.names.items() if name in LIMITS and (here or name != "max_latency_ms")
    }
    checked = {str(limit) for limit in budget.limits if limit.name in names}
    # one that is as narrow in the config is checked under the config's name
    same = {name for name in LIMITS if getattr(config.target, name) and name not in narrowed.names}
    unchecked = tuple(
        str(one) for one in budget.limits if one.value is not None and str(one) not in checked and one.name not in same
    )
    target = replace(config.target, **{name: getattr(narrowed.target, name) for name in names})
    return Limits(target, names, unchecked)
