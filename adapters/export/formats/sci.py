"""Both scores of Software Carbon Intensity for AI: `sci.json`.

Source: SCI for AI specification (Green Software Foundation, sci-ai, sections 6 to 9), on ISO/IEC 21031:2024:
SCI = (E I + M) / R, energy times carbon intensity, plus embodied carbon, for each functional unit. The provider's score
covers the training of this graft for each FLOP and each parameter, the consumer's one inference. A score that lacks an
input is null, and says which; nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from adapters.export.documents.document import Document
from adapters.export.documents.facts import JOULES_PER_KWH, Facts
from adapters.export.documents.figures import json_of

PROVIDER = (
    "training of this graft: every phase and step that its manifest counts; without the pretraining of the backbone, "
    "collection of data, earlier attempts, deployment and retirement"
)
CONSUMER = "one prediction on the profiled machine; without network, storage, orchestration, monitoring and clients"


@dataclass(frozen=True)
class Score:
    """One score for one functional unit."""

    unit: str  # functional unit R
    values: str  # gross or effective values of R
    count: float | None  # number of units
    kwh: float | None  # E
    energy_quality: str
    carbon_intensity: float | None  # I, g CO2eq/kWh
    embodied: float | None  # M, g CO2eq
    operational: float | None  # E I, g CO2eq
    score: float | None  # (E I + M) / R, g CO2eq for each unit
    missing: tuple[str, ...]  # inputs without which there is no score, with what gives them


class SCI(Document, tag="sci"):
    """The provider's and the consumer's score."""

    about = "carbon scores of SCI for AI"
    reads: ClassVar[tuple[str, ...]] = (*Document.reads, "embodied_training", "embodied_query")

    def files(self, facts: Facts) -> Mapping[str, str]:
        provider, consumer = provider_scores(facts), consumer_score(facts)
        content = {
            "specification": "Software Carbon Intensity for AI; ISO/IEC 21031:2024",
            "graft": facts.manifest.content_id,
            "provider": {"boundary": PROVIDER, "scores": [asdict(one) for one in provider]},
            "consumer": {"boundary": CONSUMER, "scores": [asdict(consumer)]},
            "absent": list(facts.absent()),
        }
        return {"sci.json": json_of(content)}


def provider_scores(facts: Facts) -> tuple[Score, Score]:
    """Returns the training's score for each FLOP (counted, effective) and for each parameter of the graft (gross)."""
    quality = facts.training.joules.quality if facts.training else "unavailable"
    embodied = ("--embodied-training", facts.carbon.embodied_training)
    source = facts.training.joules.source if facts.training else "the graft's manifest has no costs"
    unknown = facts.without_operations
    flops = None if unknown else facts.flops
    counts = (("FLOP", "effective", flops, unknown), ("parameter", "gross", float(facts.parameters), ""))
    scores = []
    for unit, values, count, why in counts:
        reasons = {f"count of the functional unit: {why}": count, f"energy: {source}": facts.kwh}
        scores.append(_score(facts, unit, values, count, facts.kwh, quality, embodied, reasons))
    return scores[0], scores[1]


def consumer_score(facts: Facts) -> Score:
    """Returns the score for each inference, of the profiled row."""
    query = facts.query
    kwh = None if query is None else query.joules / JOULES_PER_KWH
    embodied = ("--embodied-query", facts.carbon.embodied_query)
    quality = query.quality if query else "unavailable"
    return _score(facts, "inference", "gross", 1.0, kwh, quality, embodied, {f"energy: {facts.without_query}": kwh})


def _score(
    facts: Facts,
    unit: str,
    values: str,
    count: float | None,
    kwh: float | None,
    quality: str,
    embodied: tuple[str, float | None],
    reasons: Mapping[str, float | None],
) -> Score:
    option, grams = embodied
    intensity = facts.carbon.intensity
    inputs = {**reasons, "--carbon-intensity": intensity, option: grams}
    operational = None if kwh is None or intensity is None else kwh * intensity
    score = None if operational is None or grams is None or not count else (operational + grams) / count
    missing = tuple(name for name, value in inputs.items() if value is None)
    return Score(unit, values, count, kwh, quality, intensity, grams, operational, score, missing)
