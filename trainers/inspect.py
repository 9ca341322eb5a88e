"""The verb `inspect`: a description of a config, a stored graft or a backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from adapters.artefact.exits import read_exits
from adapters.artefact.manifest import MANIFEST, read_manifest
from adapters.artefact.scope import read_scope
from adapters.artefact.write import model_of
from adapters.methods.method import Method
from adapters.model import GraftModel
from adapters.specs import Head
from backbone.errors import InputError
from backbone.files import BACKBONE_FILE
from backbone.home import find_backbone, resolve_backbone
from backbone.network.encoder import Network
from backbone.precisions.record import recorded
from backbone.records import encode
from backbone.remote import local
from backbone.spec import EncoderSpec
from backbone.storage import Preprocessing, read_record
from backbone.trees import count, describe, flatten, shapes
from trainers.config import TrainConfig
from trainers.config.former import with_stages
from trainers.config.load import load_as
from trainers.pretraining.config import BackboneConfig, NewNetwork
from trainers.pretraining.start import folder_of_start
from trainers.pricing.devices import Devices, devices_of


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`; `--json` prints it."""

    what: str  # kind of the thing: graft, config or backbone
    path: str
    facts: dict[str, Any]  # ids, labels, metrics, ...
    matched: dict[str, list[str]]  # sites by "method pattern"
    tensors: dict[str, str]  # dtype and shape by path
    trainable: int  # parameters of the graft
    backbone_parameters: int
    trainable_percent: float  # share of the parameters of backbone and graft together
    devices: Devices | None = None  # devices of a config's run, and what lies on each


def inspect(path: str, overrides: tuple[str, ...] = (), backbone: str | None = None) -> Inspection:
    """Describes a graft folder, a backbone folder, a work folder or a config script, without weights."""
    folder = local(path)
    if (folder / "graft" / MANIFEST).is_file():
        folder = folder / "graft"
    if overrides and folder.is_dir():
        raise InputError(f"--set {overrides[0]}: changes a config; {path} is a folder, which is described as it is")
    if (folder / MANIFEST).is_file():
        return _inspect_graft(folder, backbone)
    if (folder / BACKBONE_FILE).is_file():
        if backbone:
            raise InputError(f"--backbone: {path} is a backbone itself; name a graft or a config, or leave it out")
        return _inspect_backbone(folder)
    if folder.is_dir():
        raise InputError(f"{path}: neither a graft (no {MANIFEST}) nor a backbone (no {BACKBONE_FILE})")
    kinds: Any = TrainConfig | BackboneConfig
    config = load_as(kinds, path, overrides)
    if isinstance(config, BackboneConfig):
        return _inspect_pretraining(config, path)
    spec = read_record(resolve_backbone(backbone or config.backbone)).spec
    known = config.head.column.known_names(config.data)
    labels = known or ("first", "second")
    facts = {"config": encode(with_stages(config)), "labels": known or "decided by the data; two are assumed here"}
    described = _describe("config", path, facts, spec, config.methods, config.head, labels)
    model = GraftModel(Network(spec), config.methods, config.head, labels)
    trained = shapes(model.abstract())
    weights = shapes(model.network.abstract()) | trained
    return replace(described, devices=devices_of(config.mesh, config.batch_size, weights, trained))


def _inspect_pretraining(config: BackboneConfig, path: str) -> Inspection:
    """Describes the training of a backbone; of a vocabulary that is learned, its largest size counts."""
    if config.start:
        spec = read_record(folder_of_start(config.start)).spec
    else:
        assert config.network is not None, "BackboneConfig refuses it without a start"
        spec = config.network.spec(_sizes(config, config.network))
    network = Network(spec).abstract()
    weights = shapes(network)
    trained = {name: shape for name, shape in weights.items() if config.objective.is_used(name)}
    return Inspection(
        what="config",
        path=path,
        facts={"config": encode(config)},
        matched={},
        tensors={name: describe(leaf) for name, leaf in flatten(network).items()},
        trainable=sum(math.prod(shape) for shape in trained.values()),
        backbone_parameters=count(network),
        trainable_percent=100.0,
        devices=devices_of(config.mesh, config.batch_size, weights, trained),
    )


class _Sizes(NamedTuple):
    vocabulary: int
    max_tokens: int


def _sizes(config: BackboneConfig, network: NewNetwork) -> Preprocessing:
    """Returns what a new network must know of its rows, before any of these is read."""
    if config.tokenizer is None:
        return network.preprocessing()
    return cast(Preprocessing, _Sizes(config.tokenizer.max_vocabulary, config.corpus.tokens))


def _inspect_graft(folder: Path, backbone: str | None) -> Inspection:
    manifest = read_manifest(folder)
    hint = str(manifest.training.config.get("backbone_path", ""))
    place = Path(backbone) if backbone else find_backbone(manifest.weights_id, [hint])
    facts = {k: v for k, v in encode(manifest).items() if k not in ("tensors", "training", "files")}
    facts["metrics"] = manifest.training.metrics
    spec = read_record(place).spec
    if scope := read_scope(folder, manifest, spec.width, spec.blocks):
        model = model_of(manifest, Network(spec))
        facts["out_of_scope"] = {
            "boundary": scope.boundary,
            "false_alarms": scope.false_alarms,
            "abstains": scope.abstain,
            # of the bare backbone, above the lowest adapted block: they run for the score alone
            "extra_blocks": max(0, scope.boundary - min(model.adapted_blocks, default=spec.blocks)),
        }
    if exits := read_exits(folder, manifest, spec.width, spec.blocks):
        facts["exits"] = exits.facts()
    return _describe("graft", str(folder), facts, spec, manifest.methods, manifest.head, manifest.labels)


def _inspect_backbone(folder: Path) -> Inspection:
    record = read_record(folder)
    weights = Network(record.spec).abstract()
    tensors = {path: describe(leaf) for path, leaf in flatten(weights).items()}
    facts = encode(record) | {"precision": recorded(record.weights_id)}
    return Inspection("backbone", str(folder), facts, {}, tensors, 0, count(weights), 0.0)


def _describe(
    what: str,
    path: str,
    facts: dict[str, Any],
    spec: EncoderSpec,
    methods: tuple[Method, ...],
    head: Head,
    labels: tuple[str, ...],
) -> Inspection:
    network = Network(spec)
    model = GraftModel(network, methods, head, labels)
    weights = model.abstract()
    trainable, frozen = count(weights), count(network.abstract())
    matched = {
        f"{method.tag} {pattern}".strip(): list(places)
        for method in methods
        for pattern, places in method.matched(spec).items()
    }
    return Inspection(
        what=what,
        path=path,
        facts=facts,
        matched=matched,
        tensors={path: describe(leaf) for path, leaf in flatten(weights).items()},
        trainable=trainable,
        backbone_parameters=frozen,
        trainable_percent=round(100 * trainable / (trainable + frozen), 4),
    )
