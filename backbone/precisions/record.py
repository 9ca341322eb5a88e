"""The precision of a trunk, as it was chosen on this machine: one small file for each backbone, in the home.

A precision belongs to the trunk of a fleet, not to a run. Training, retraining and serving read this record, so that
all of them use one trunk. Importing this module imports no jax.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from backbone.errors import InputError
from backbone.files import write_durable
from backbone.home import home
from backbone.precisions.precision import FLOAT32, precision_named
from backbone.records import decode, encode, newer
from backbone.texts import load_json

SCHEMA = 1


@dataclass(frozen=True)
class Measured:
    """One precision on one machine, beside float32."""

    precision: str
    speed: float  # float32's seconds divided by this precision's, geometric mean over shapes
    bytes: int  # bytes of the trunk's weights
    cosine: float  # smallest cosine of a row's pooled states to float32's
    score: float | None = None  # out-of-fold accuracy of a probe on calibration rows; None: there were too few
    lost: float | None = None  # float32's score less this one
    noise: float | None = None  # standard error of that loss


@dataclass(frozen=True)
class CalibrationRows:
    """The rows on which precisions were compared."""

    config: str  # name of the config whose train rows they are
    rows: int  # number of rows
    fingerprint: str  # fingerprint of the train rows from which they were taken


@dataclass(frozen=True)
class Choice:
    """The precision of a trunk, and the reason for it."""

    schema: int  # version of this file
    weights_id: str  # identity of the float32 weights
    precision: str
    reason: str  # who chose it, in words
    measured: tuple[Measured, ...] = ()  # figures that the choice rests on
    calibration: CalibrationRows | None = field(default=None, metadata=newer())  # rows of the scores among them
    registry: str = field(default="", metadata=newer())  # id of the registry that it was taken from; "" = made here

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema: this version reads {SCHEMA}, the record has {self.schema}")
        precision_named(self.precision)


def record_file(base_id: str) -> Path:
    """Returns the file that holds the choice for a backbone."""
    return home() / "precisions" / f"{base_id.removeprefix('sha256:')[:24]}.json"


def choice_of(base_id: str) -> Choice | None:
    """Reads the choice for a backbone; None where nothing was chosen. Raises InputError for a damaged record."""
    file = record_file(base_id)
    try:
        content = load_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: unreadable: {error}; choose again with `topgraft precision BACKBONE`") from error
    choice = decode(Choice, content, str(file))
    if choice.weights_id != base_id:
        raise InputError(f"{file}: is about {choice.weights_id[:19]}..., not {base_id[:19]}...; remove it")
    return choice


def recorded(base_id: str) -> str:
    """Returns the precision that is recorded for a backbone, float32 where none is."""
    choice = choice_of(base_id)
    return FLOAT32 if choice is None else choice.precision


def record(
    base_id: str,
    precision: str,
    reason: str,
    measured: tuple[Measured, ...] = (),
    calibration: CalibrationRows | None = None,
    registry: str = "",
) -> Choice:
    """Writes the choice for a backbone, in place of a former one, and returns it."""
    choice = Choice(SCHEMA, base_id, precision, reason, measured, calibration, registry)
    file = record_file(base_id)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durable(file, json.dumps(encode(choice), indent=1).encode())
    return choice


def trunk_id(base_id: str, precision: str = "") -> str:
    """Returns the identity of a backbone in a precision; "" takes the recorded one."""
    return precision_named(precision or recorded(base_id)).weights_id(base_id)
