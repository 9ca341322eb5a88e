"""What a graft is made from, as one small record: equal records, nothing to train. Imports no jax.

Rows count by content: files are hashed first, and only where their bytes are new are rows read and
hashed. The config counts as far as it changes what is trained; the backbone by its ids; and numerics by
a version that is raised by hand, so that an upgrade of a library is no reason to retrain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.heads.head import kinds_for
from backbone.errors import InputError
from backbone.home import home
from backbone.records import digest, encode
from trainers.config import TrainConfig
from trainers.data.prepare import read_splits, source_key
from trainers.data.splits import NUMERICS_VERSION
from trainers.retrain.rows import Rows, hashed

# fields of a config that change how a run goes, never what is trained
BACKBONE_FILE = "backbone.json"  # in a backbone folder; backbone.storage, which reads the rest, imports jax
LEARNT_FROM = ("train", "dev")  # splits that decide what is trained
ASIDE = ("name", "backbone", "retrain", "data", "target", "log_every", "checkpoint_seconds", "input_threads")


@dataclass(frozen=True)
class Fingerprint:
    """What a graft was, or would be, made from."""

    source: str  # names the bytes of the files and how they are read
    rows: dict[str, str]  # fingerprint of each split
    config: str  # digest of what changes the training
    graft: str  # digest of what a graft must share to be started from: method, head, backbone
    weights_id: str
    preprocessing_id: str
    numerics: int  # raised by hand
    gate: str  # digest of what the candidate is asked for

    def same_training(self, other: Fingerprint) -> bool:
        """Whether training would give the same graft again."""
        return self._trained == other._trained

    @property
    def _trained(self) -> tuple[Any, ...]:
        return (
            [self.rows.get(name, "") for name in LEARNT_FROM],
            self.config,
            self.weights_id,
            self.preprocessing_id,
            self.numerics,
        )

    @property
    def key(self) -> str:
        """A short name of what is trained."""
        return digest(list(self._trained)).removeprefix("sha256:")[:24]


@dataclass(frozen=True)
class Taken:
    """A fingerprint, and the rows where they had to be read for it."""

    fingerprint: Fingerprint
    rows: Rows | None


def take(config: TrainConfig, before: Fingerprint | None) -> Taken:
    """The fingerprint of a config as its data are now; `before` spares reading files whose bytes are the same.

    Raises InputError for bad data, or a backbone that is not there.
    """
    if "retrain" not in config.head.supports:
        raise InputError(
            f"head.kind: {config.head.kind} cannot be retrained by a gate that compares labels; "
            f"train it with `topgraft train`, or use {kinds_for('retrain')}"
        )
    source = source_key(config.data, config.head.column)
    rows: Rows | None = None
    if before is not None and before.source == source:
        prints = before.rows
    else:
        rows, prints = read(config)
    weights, preprocessing = backbone_ids(config.backbone)
    values = encode(config)
    if not config.out_of_scope.false_alarms:
        del values["out_of_scope"]  # as if it had never been heard of: no reason to retrain
    if not config.exits.boundaries:
        del values["exits"]
    if not config.validate:
        del values["validate"]
    reading = {k: v for k, v in values["data"].items() if k in ("max_tokens", "difficulty", "label_names")}
    ids = {"weights_id": weights, "preprocessing_id": preprocessing, "max_tokens": config.data.max_tokens}
    goal = {"min_score": config.target.min_score, "max_cpu_seconds": config.target.max_cpu_seconds}  # end a climb
    shape = {"adapter": values["adapter"], "head": values["head"], "compute_dtype": config.compute_dtype}
    return Taken(
        Fingerprint(
            source=source,
            rows=prints,
            config=digest({k: v for k, v in values.items() if k not in ASIDE} | {"data": reading, "target": goal}),
            graft=digest(shape | ids),
            weights_id=weights,
            preprocessing_id=preprocessing,
            numerics=NUMERICS_VERSION,
            gate=digest({"gate": values["retrain"]["gate"], "target": values["target"], "metric": config.metric}),
        ),
        rows,
    )


def read(config: TrainConfig) -> tuple[Rows, dict[str, str]]:
    """Every split's rows as hashes, and their fingerprints."""
    if not config.data.train:
        raise InputError("data.train: no file; name one with --set data.train=FILE")
    return hashed(read_splits(config.data, config.head.column))


def backbone_ids(name: str) -> tuple[str, str]:
    """(weights_id, preprocessing_id) of a backbone folder, or of `minilm`, imported on first use."""
    path = Path(name)
    if not (path / BACKBONE_FILE).is_file() and name == "minilm":
        path = home() / "backbones" / name
        if not (path / BACKBONE_FILE).is_file():
            from backbone.home import resolve_backbone

            path = resolve_backbone(name)
    try:
        record = json.loads((path / BACKBONE_FILE).read_text(encoding="utf-8"))
        return str(record["weights_id"]), str(record["preprocessing_id"])
    except FileNotFoundError:
        raise InputError(
            f"backbone: {path}: not a backbone folder (no {BACKBONE_FILE}); make one with "
            f"`topgraft import-backbone SOURCE --out {path}`"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"backbone: {path / BACKBONE_FILE}: unreadable: {error}; import the backbone again") from error
