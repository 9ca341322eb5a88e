"""The verbs of a search. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backbone.console.options import argument, option, required
from backbone.console.verbs import Verb
from registry.budgets.place import UnderBudgets, budgets_for
from registry.place import Place
from trainers.config import TrainConfig
from trainers.config.load import Scripted


@dataclass(frozen=True, kw_only=True)
class Search(Scripted, UnderBudgets, Verb, verb="search"):
    space: str = option("small", "script with get_space(), or the name of one that comes with topgraft: small, wide")
    objectives: tuple[str, ...] = option(
        ("score",), "what to look for, with commas between: score, cpu_seconds, latency, bytes, flops, joules"
    )
    budget: float = option(0.0, "CPU seconds that the search may take; 0: every point is tried", min=0)
    sampler: str = option("grid", "order of the points: grid, random, or tpe, which learns and needs topgraft[tpe]")
    processes: int = option(1, "trials that are trained at a time, each in a process of its own if more than 1", min=1)
    executor: Literal["processes", "ray"] = option("processes", "where these run: on this machine, or by Ray")
    workdir: str | None = option(None, "folder of the search (default: runs/NAME-search)")
    resume: bool = option(False, "continue an interrupted search")

    def call(self) -> object:
        """Searches a space of configs, whose trials share states and programs; `search show` and `decide` follow."""
        from trainers.search.run import search
        from trainers.search.space import load_space

        config = self.load(TrainConfig)
        return search(
            config,
            load_space(self.space),
            Path(self.workdir) if self.workdir else Path("runs") / f"{config.name}-search",
            objectives=self.objectives,
            budget=self.budget,
            sampler=self.sampler,
            limits=budgets_for(self.budgets).of(config.name),
            processes=self.processes,
            executor=self.executor,
            resume=self.resume,
            show=self.show,
        )


@dataclass(frozen=True, kw_only=True)
class OfSearch:
    """The search that an action is about."""

    run: str = argument("folder of a search")


@dataclass(frozen=True, kw_only=True)
class Show(OfSearch, Verb, verb="search show"):
    def call(self) -> object:
        """Shows the front of a search that has ended."""
        from trainers.search.result import read_result

        return read_result(self.run)


@dataclass(frozen=True, kw_only=True)
class Decide(OfSearch, Verb, verb="search decide"):
    choose: str = required("id of the point, or its first digits", nonblank=True)
    by: str = required("person who decides", nonblank=True, metavar="NAME")
    why: str = required("reason of the choice", nonblank=True, metavar="TEXT")
    place: Place = field(default_factory=Place)

    def call(self) -> object:
        """Writes the choice of a person among the points of a search into the registry."""
        from trainers.search.decide import decide

        return decide(self.run, self.choose, by=self.by, why=self.why, place=self.place)


SEARCH_VERBS: tuple[type[Verb], ...] = (Search, Show, Decide)
