"""The place of a registry and its store. Importing this module imports no database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.console.options import option
from backbone.home import home

if TYPE_CHECKING:
    from registry.database import Registry
    from registry.store import Store


def default_url() -> str:
    """Returns the URL of this machine's registry, a file in the home."""
    return f"sqlite:///{home().absolute() / 'registry.db'}"


def default_store() -> Path:
    """Returns this machine's store, a folder in the home."""
    return home() / "store"


@dataclass(frozen=True)
class Place:
    """A registry and a store, as the command line names them."""

    registry: str = option("", "URL of the registry (default: sqlite, in TOPGRAFT_HOME/registry.db)")
    store: str = option("", "folder or address (s3://...) of the artefacts (default: TOPGRAFT_HOME/store)")

    def open(self, *, create: bool = False) -> Registry:
        """Opens the registry; raises InputError if there is none, unless `create` makes it."""
        from registry.database import open_registry

        return open_registry(self.registry or default_url(), create=create)

    def artefacts(self) -> Store:
        """Returns the store."""
        from registry.remote_store import opened

        return opened(self.store or default_store())
