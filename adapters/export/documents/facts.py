"""Everything that a document about a graft may say, from its folder and one profile. Imports no jax.

No figure is typed by hand. A figure that nobody has is None, and `absent` says what would give it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from pathlib import Path

from adapters.artefact.manifest import CANARY, Manifest, read_manifest, stored_phases, uncounted
from adapters.export.documents.profile import Query, read_query
from metering.cost import CostRecord, add_costs
from metering.energy import Joules

JOULES_PER_KWH = 3.6e6
JOULES_PER_WH = 3600.0
SPLITS = ("train", "out_of_fold", "held_out", "dev", "gate", "test")  # order in which a document shows splits


@dataclass(frozen=True)
class Carbon:
    """Figures that only the reader's place knows; None where nobody gave one."""

    intensity: float | None = None  # grams of CO2 equivalent for each kWh
    embodied_training: float | None = None  # grams of CO2 equivalent of the hardware's share in the training
    embodied_query: float | None = None  # grams of CO2 equivalent of the hardware's share in one answer


@dataclass(frozen=True)
class Facts:
    """The record behind every document."""

    manifest: Manifest
    parameters: int  # numbers in the graft's tensors
    graft_bytes: int  # bytes of the folder
    takes: str  # what an input is: text, image
    training: CostRecord | None  # all phases of the training together
    flops: float | None  # counted operations of its phases; those without a count left out
    uncounted: tuple[str, ...]  # phases that compute, and whose operations nobody counted
    query: Query | None  # None: no profile was given, or it has no joules
    profiled: bool  # a profile was given
    carbon: Carbon

    @property
    def kwh(self) -> float | None:
        """Returns the energy of the training; None where its parts have several qualities."""
        joules = self.training.joules.value if self.training else None
        return None if joules is None else joules / JOULES_PER_KWH

    @property
    def training_grams(self) -> float | None:
        """Returns the operational carbon of the training, in grams of CO2 equivalent."""
        intensity = self.carbon.intensity
        return None if self.kwh is None or intensity is None else self.kwh * intensity

    def metrics(self) -> Sequence[tuple[str, str, float]]:
        """Returns (split, metric, value) of every score of the manifest, in a fixed order."""
        scores = self.manifest.training.metrics
        order = [*(name for name in SPLITS if name in scores), *sorted(set(scores) - set(SPLITS))]
        return [(split, metric, value) for split in order for metric, value in scores[split].items()]

    def absent(self) -> Sequence[str]:
        """Returns a sentence for each figure that is missing, with what gives it."""
        sentences = []
        if self.training is None:
            sentences.append("Time, operations and energy of the training: the graft's manifest has no costs.")
        elif self.kwh is None:
            sentences.append(f"Energy of the training: {self.training.joules.source}.")
        if self.training is not None and (uncounted := self.without_operations):
            sentences.append(f"Operations of the training: {uncounted}.")
        if (rows := self.manifest.training.rows_read) and self.training is not None:
            sentences.append(
                f"Work on {rows} rows: a cache held their states before the training, so that its time and energy "
                "leave out what computed them; train with an empty cache to have all."
            )
        if not self.manifest.training.metrics:
            sentences.append("Scores: the graft's manifest has none.")
        if self.query is None:
            sentences.append(f"Energy of an answer: {self.without_query}.")
        if self.carbon.intensity is None:
            sentences.append("Carbon: give --carbon-intensity, grams of CO2 equivalent for each kWh of your place.")
        return sentences

    @property
    def without_query(self) -> str:
        """Returns what gives the energy of an answer, where it is missing."""
        if self.profiled:
            return "the profile has no joules; profile where power is known"
        return "give --profile FILE, which `topgraft profile GRAFT --json` prints"

    @property
    def without_operations(self) -> str:
        """Returns why the operations of the training are not known; "" where they are."""
        if self.training is None:
            return "the graft's manifest has no costs"
        if self.uncounted:
            return f"nobody counts those of the phases {', '.join(self.uncounted)}"
        return "" if self.flops is not None else "its phases have none"


def read_facts(graft: str | Path, profile: str = "", carbon: Carbon | None = None) -> Facts:
    """Reads a graft folder and, where one is named, the JSON of its profile.

    Raises InputError for a damaged graft, and for a file that is no profile of this graft.
    """
    from adapters.artefact.read import read_tensors

    folder = Path(graft)
    manifest = read_manifest(folder)
    phases = stored_phases(manifest.training)
    counted = [record.flops for record in phases.values() if record.flops is not None]
    inputs = read_tensors(folder, CANARY, manifest)["ids"]
    return Facts(
        manifest=manifest,
        parameters=sum(prod(_shape(described)) for described in manifest.tensors.values()),
        graft_bytes=sum(file.stat().st_size for file in folder.iterdir()),
        takes="image" if inputs.dtype.name == "uint8" else "text",
        training=reduce(add_costs, phases.values()) if phases else None,
        flops=sum(counted) if counted else None,
        uncounted=uncounted(phases),
        query=read_query(Path(profile), manifest.content_id) if profile else None,
        profiled=bool(profile),
        carbon=carbon or Carbon(),
    )


def _shape(described: str) -> tuple[int, ...]:
    """Returns the shape in a manifest's description of a tensor, as `float32 [2,3]`."""
    inside = described[described.index("[") + 1 : described.rindex("]")]
    return tuple(int(size) for size in inside.replace(" ", "").split(",") if size)


def spread(joules: Joules) -> str:
    """Returns the bounds of a modelled figure in words; "" for a counted one."""
    return "" if joules.low is None or joules.high is None else f" ({joules.low!r} to {joules.high!r})"
