"""The envelope of a server: from a file, or the narrowest around what is live when the server begins."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from adapters.artefact.exits import read_exits
from adapters.artefact.manifest import read_manifest
from adapters.artefact.scope import read_scope
from adapters.artefact.write import OtherBackbone, model_on
from adapters.model import GraftModel
from adapters.specs import Lora
from backbone.records import decode
from backbone.storage import Backbone
from backbone.texts import parse_json, read_text
from serving.bank import Envelope, Group, lowest_block
from serving.exiting import on_the_way
from serving.live.catalogue import MANIFEST_SECONDS, Catalogue, Entry
from serving.live.readers import Readers, Unanswered
from serving.server.settings import Settings

log = logging.getLogger(__name__)

MAX_HUNG = 8  # manifests that hang before the server begins without the rest


def read_envelope(file: str | Path) -> Envelope:
    """Reads an envelope from a JSON file; raises InputError.

    The file holds `{"labels": 64, "groups": [{"methods": [{"method": "lora", ...}], ...}]}`.
    """
    return decode(Envelope, parse_json(read_text(Path(file)), str(file)), str(file))


@dataclass
class Live:
    """What the live versions need of an envelope."""

    nothing: str | None = None  # reason why none of them can be read
    foreign: bool = False  # each of them is on another backbone
    models: list[GraftModel] = field(default_factory=list)
    scopes: set[int] = field(default_factory=set)
    exits: set[int] = field(default_factory=set)

    def envelope(self, settings: Settings) -> Envelope:
        """Returns the narrowest envelope around them; without any, LoRA of rank 16 on query and value."""
        if not self.models:
            return Envelope((Group((Lora(rank=16),), slots=settings.slots),), settings.labels)
        scopes = sorted(self.scopes)
        return Envelope.around(
            self.models, slots=settings.slots, labels=settings.labels, scopes=scopes, exits=self.exits
        )


def default_envelope(settings: Settings, backbone: Backbone, catalogue: Catalogue) -> Envelope:
    """Returns the narrowest envelope around the live versions; without any, LoRA of rank 16 on query and value."""
    return read_live(settings, backbone, catalogue).envelope(settings)


def read_live(settings: Settings, backbone: Backbone, catalogue: Catalogue) -> Live:
    """Reads the manifests of the live versions; one that cannot be read is logged."""
    live, readers, hung = Live(scopes={backbone.spec.blocks}), Readers("manifest", seconds=MANIFEST_SECONDS), 0
    try:
        entries = catalogue.lives()
    except Exception as error:  # noqa: BLE001 - whatever a database or disk raises: it may answer later
        return Live(f"the catalogue does not answer: {error}")
    reasons: list[str] = []
    foreign = 0
    for task, entry in entries.items():
        try:
            title = f"{task} version {entry.version}"
            readers.call(task, title, partial(_add, live, entry, settings, backbone, catalogue))
        except Exception as error:  # noqa: BLE001 - whatever a bad graft raises harms no other
            log.error("%s version %s: %s", task, entry.version, error)
            reasons.append(f"{task} version {entry.version}: {error}")
            hung += isinstance(error, Unanswered)
            foreign += isinstance(error, OtherBackbone)
            if hung > MAX_HUNG:
                log.error("%d reads hang; the envelope is made without the other live versions", hung)
                break
    if not live.models:
        first = f"; the first of {len(reasons)}: {reasons[0]}" if reasons else ""
        live.foreign = bool(entries) and foreign == len(entries)
        live.nothing = f"no live version can be read{first}" if entries else "nothing is live"
    return live


def _add(live: Live, entry: Entry, settings: Settings, backbone: Backbone, catalogue: Catalogue) -> None:
    """Adds what one live version needs; raises InputError if it cannot be served on this backbone."""
    path = catalogue.path(entry)
    manifest = read_manifest(path)
    model = model_on(manifest, backbone, str(path))
    Envelope.around([model])  # raises for a head that no bank holds
    scope = read_scope(path, manifest, model.pooled_width, backbone.spec.blocks)
    early = read_exits(path, manifest, backbone.spec.width, backbone.spec.blocks)
    live.models.append(model)
    if scope:
        live.scopes.add(scope.boundary)
    if early and "exits" in settings.submodels and on_the_way(scope, early, lowest_block(model)):
        live.exits.update(early.boundaries)
