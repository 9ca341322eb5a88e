"""The file of budgets that a verb reads, by one rule. Imports no database and no jax."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from backbone.console.options import option
from registry.budgets.budget import Budgets
from registry.budgets.read import read_budgets
from registry.place import default_url

VARIABLE = "TOPGRAFT_BUDGETS"
NAME = "budgets.toml"
SQLITE = "sqlite:///"


@dataclass(frozen=True, kw_only=True)
class UnderBudgets:
    """The file of a team's budgets."""

    budgets: str = option("", f"file of budgets (default: {VARIABLE}, else {NAME} beside the registry)")


def budgets_for(named: str, url: str = "") -> Budgets:
    """Reads the budgets that hold for the registry `url`, by default this machine's; none where there is no file."""
    file = budget_file(named, url)
    return Budgets() if file is None else read_budgets(file)


def budget_file(named: str, url: str = "") -> Path | None:
    """Returns the file that the command line names, else the environment, else the one beside a registry in a file.

    None where there is none. A file that somebody names must be there. One beside the registry must be readable,
    whatever has its name: a link that points nowhere would lift every limit.
    """
    if chosen := named or os.environ.get(VARIABLE, ""):
        return Path(chosen)
    place = url or default_url()
    if not place.startswith(SQLITE):
        return None
    beside = Path(place.removeprefix(SQLITE).partition("?")[0]).parent / NAME
    return beside if os.path.lexists(beside) else None
