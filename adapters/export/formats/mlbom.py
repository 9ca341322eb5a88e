"""A machine-learning bill of materials: `bom.json` in CycloneDX 1.6.

Source: schema bom-1.6 of CycloneDX/specification (ECMA-424): `machine-learning-model` with a `modelCard`. Values that
CycloneDX has no field for are properties `topgraft:...`. The organisation that supplied the energy is unknown, so the
list of providers is empty.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from adapters.export.documents.document import Document
from adapters.export.documents.facts import JOULES_PER_KWH, Facts
from adapters.export.documents.figures import json_of

GRAMS_PER_TONNE = 1e6
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "topgraft")  # serial numbers are made of it and of content ids
_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")  # what may be the name of a package


class MLBOM(Document, tag="mlbom"):
    """A bill of materials of a graft: its files, its backbone, its libraries, and its model card."""

    about = "CycloneDX bill of materials"

    def files(self, facts: Facts) -> Mapping[str, str]:
        return {"bom.json": json_of(bill(facts))}


def bill(facts: Facts) -> dict[str, object]:
    """Returns the bill; the same graft and inputs give the same one."""
    manifest = facts.manifest
    graft, backbone = manifest.content_id, manifest.weights_id
    versions = manifest.training.versions
    libraries = [_library(name, version) for name, version in versions.items() if _DISTRIBUTION.fullmatch(name)]
    files = [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_sha256(digest)]}
        for name, digest in manifest.files.items()
    ]
    trunk = {
        "type": "machine-learning-model",
        "bom-ref": backbone,
        "name": str(manifest.training.config.get("backbone") or "backbone"),
        "version": backbone,
        "properties": [_property("preprocessing_id", manifest.preprocessing_id)],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, graft)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": graft,
                "name": manifest.name,
                "version": graft,
                "components": files,
                "modelCard": _card(facts),
                "properties": [
                    *(_property("method", method.tag) for method in manifest.methods),
                    _property("parameters", facts.parameters),
                    _property("max_tokens", manifest.max_tokens),
                    *(_property("precision", one) for one in manifest.variants),
                    *(_property(n, version) for n, version in versions.items() if not _DISTRIBUTION.fullmatch(n)),
                    *(_property("absent", sentence) for sentence in facts.absent()),
                ],
            }
        },
        "components": [trunk, *libraries],
        "dependencies": [
            {"ref": graft, "dependsOn": [backbone, *(one["bom-ref"] for one in libraries)]},
            {"ref": backbone, "dependsOn": []},
        ],
    }


def _card(facts: Facts) -> dict[str, object]:
    manifest = facts.manifest
    datasets = [
        {"type": "dataset", "name": split, "contents": {"properties": [_property("fingerprint", digest)]}}
        for split, digest in manifest.training.data.items()
    ]
    card: dict[str, object] = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": manifest.head.kind,
            "architectureFamily": "transformer",
            "datasets": datasets,
            "inputs": [{"format": facts.takes}],
            "outputs": [{"format": label} for label in manifest.labels],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": metric, "value": repr(value), "slice": split} for split, metric, value in facts.metrics()
            ]
        },
    }
    if consumptions := _energy(facts):
        card["considerations"] = {"environmentalConsiderations": {"energyConsumptions": consumptions}}
    return card


def _energy(facts: Facts) -> list[dict[str, object]]:
    """Returns the energy of the training and, where a profile gave it, of one answer."""
    consumptions = []
    if facts.training is not None and facts.kwh is not None:
        joules = facts.training.joules
        bounds = [("joules_low", joules.low), ("joules_high", joules.high)]
        properties = [_property(name, value) for name, value in bounds if value is not None]
        carbon = facts.training_grams
        consumptions.append(_consumption("fine-tuning", facts.kwh, joules.quality, joules.source, carbon, properties))
    if (query := facts.query) is not None:
        kwh, intensity = query.joules / JOULES_PER_KWH, facts.carbon.intensity
        source = f"one answer of {query.tokens} tokens"
        grams = None if intensity is None else kwh * intensity
        consumptions.append(_consumption("inference", kwh, query.quality, source, grams))
    return consumptions


def _consumption(
    activity: str, kwh: float, quality: str, source: str, grams: float | None, further: Sequence[dict[str, str]] = ()
) -> dict[str, object]:
    carbon = {} if grams is None else {"co2CostEquivalent": {"value": grams / GRAMS_PER_TONNE, "unit": "tCO2eq"}}
    return {
        "activity": activity,
        "energyProviders": [],
        "activityEnergyCost": {"value": kwh, "unit": "kWh"},
        **carbon,
        "properties": [_property("quality", quality), _property("source", source), *further],
    }


def _library(name: str, version: str) -> dict[str, object]:
    if name == "python":
        return {"type": "platform", "bom-ref": "python", "name": "python", "version": version}
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}


def _property(name: str, value: object) -> dict[str, str]:
    return {"name": f"topgraft:{name}", "value": value if isinstance(value, str) else repr(value)}
