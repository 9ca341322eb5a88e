"""A router: a linear head on pooled states of the bare trunk, which names the graft that answers an input, or none.

It is a folder of `router.json` and `router.safetensors`. The states are means over the tokens at one or more
boundaries, side by side; those at the last boundary come behind the last norm. The graft with the largest probability
answers, if that reaches the threshold. The threshold is certified on rows that the head was not fitted to
(`trainers.route`). Imports no jax: services begin here.

An output of the head is a label of a graft, or a graft as a whole. The probability of a graft is the sum over its
outputs (a mixture of classes, Hastie & Tibshirani 1996, section 2): the labels of a task may lie far from each other.
Shape letters: `N` rows, `P` pooled values, `K` outputs, `C` grafts, and one more where rows of no graft were fitted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from adapters.artefact.read import misfits
from backbone.errors import InputError
from backbone.files import new_folder, sha256_file
from backbone.records import canonical_json, decode, digest, encode
from backbone.texts import load_json
from backbone.trees import content_hash

SCHEMA = 1
RECORD, TENSORS = "router.json", "router.safetensors"
NONE = "none"  # name of the rows that belong to no graft


@dataclass(frozen=True)
class RoutedTask:
    """A graft that a router may name."""

    name: str  # name of the task
    content_id: str  # content of its graft when the router was made; a later version of the task is fine too
    path: str  # folder of the graft when the router was made
    rows: int  # rows that the router was fitted to


@dataclass(frozen=True)
class Promise:
    """What is certified: at most `max_wrong` of the inputs like these get an answer of the wrong graft."""

    threshold: float  # smallest probability of an answer; 0: every input is answered
    max_wrong: float  # bound on the share of rows with an answer of the wrong graft; 0: nothing is promised
    confidence: float  # probability, over draws of the calibration rows, that the bound holds
    rows: int  # calibration rows
    wrong: int  # calibration rows that the wrong graft would answer
    answered: float  # share of the calibration rows that some graft would answer
    accuracy: float  # share of the calibration rows whose graft has the largest probability


@dataclass(frozen=True)
class RouterRecord:
    """The contents of `router.json`."""

    schema: int  # version of this layout
    content_id: str  # sha256 of the tensors and of everything but figures and paths
    weights_id: str  # weights of the trunk, in their precision
    preprocessing_id: str  # preprocessing of the trunk
    boundaries: tuple[int, ...]  # boundaries whose pooled states are read, ascending
    tasks: tuple[RoutedTask, ...]  # grafts in the order of the outputs
    max_tokens: int  # length at which longer inputs are cut
    promise: Promise
    data: dict[str, str]  # fingerprint of the rows by task
    versions: dict[str, str]  # versions of libraries
    file: str = ""  # sha256 of the tensors' file
    record_id: str = ""  # sha256 of all the rest

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema: this version reads {SCHEMA}, the router has {self.schema}")

    def identity(self) -> str:
        """Returns the text that, with the tensors, decides `content_id`."""
        fields = ("schema", "weights_id", "preprocessing_id", "boundaries", "max_tokens")
        values = {name: encode(getattr(self, name)) for name in fields}
        tasks = [[task.name, task.content_id] for task in self.tasks]
        promise = self.promise
        return canonical_json(
            {**values, "tasks": tasks, "promise": [promise.threshold, promise.max_wrong, promise.confidence]}
        )


@dataclass(frozen=True)
class Choice:
    """The choice of a router for an input."""

    task: str | None  # task whose graft answers; None: no graft does
    probability: float  # probability of the most probable graft


@dataclass(frozen=True)
class Router:
    """A router in memory."""

    record: RouterRecord
    kernel: np.ndarray  # float32 [P,K]
    bias: np.ndarray  # float32 [K]
    owners: np.ndarray  # int32 [K], number of the graft that each output belongs to

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the tasks, in the order of the outputs."""
        return tuple(task.name for task in self.record.tasks)

    def probabilities(self, pooled: np.ndarray) -> np.ndarray:
        """Returns probabilities float [N,C] of pooled states float32 [N,P]; the sum of the outputs of each graft."""
        outputs = scipy.special.softmax(pooled @ self.kernel + self.bias, axis=1)
        return np.asarray(outputs @ np.eye(self.owners.max() + 1)[self.owners])

    def choices(self, pooled: np.ndarray) -> list[Choice]:
        """Returns the choice for each row of pooled states float32 [N,P]."""
        return self.chosen(self.probabilities(pooled))

    def chosen(self, probabilities: np.ndarray) -> list[Choice]:
        """Returns the choice for each row of probabilities float [N,C]."""
        names, threshold = self.names, self.record.promise.threshold
        first, best = probabilities.argmax(axis=1), probabilities[:, : len(names)]
        places, sure = best.argmax(axis=1), best.max(axis=1)
        answered = (first == places) & (sure >= threshold)
        return [
            Choice(names[place] if yes else None, float(probability))
            for place, probability, yes in zip(places, sure, answered, strict=True)
        ]


def save_router(target: str | Path, router: Router) -> Router:
    """Writes a router's folder in one step, and returns it sealed; raises InputError if `target` exists."""
    tensors = {
        "kernel": np.ascontiguousarray(router.kernel, np.float32),
        "bias": np.ascontiguousarray(router.bias, np.float32),
        "owners": np.ascontiguousarray(router.owners, np.int32),
    }
    record = router.record
    with new_folder(Path(target)) as folder:
        (folder / TENSORS).write_bytes(save_tensors(tensors))
        record = replace(
            record, file=sha256_file(folder / TENSORS), content_id=content_hash(tensors, record.identity())
        )
        record = _sealed(record)
        (folder / RECORD).write_bytes(_dumps(record))
    return Router(record, **tensors)


def read_router(path: str | Path) -> Router:
    """Returns the router of a folder, every byte verified; raises InputError."""
    path = Path(path)
    file = path / RECORD
    try:
        content = file.read_bytes()
        record = decode(RouterRecord, load_json(content.decode()))
    except OSError as error:
        raise InputError(f"{path}: not a router (no readable {RECORD}): {error}; make one: topgraft route") from None
    except ValueError as error:  # InputError is one
        raise InputError(f"{file}: damaged: {error}; restore the router or make it again") from error
    if _sealed(record) != record or _dumps(record) != content:
        raise InputError(f"{file}: does not match its own hash: altered after it was written")
    return Router(record, **_tensors(path / TENSORS, record))


def require_trunk(router: Router, weights_id: str, preprocessing_id: str, where: str) -> None:
    """Raises InputError unless the router was made on this trunk, in this precision."""
    for field, here in (("weights_id", weights_id), ("preprocessing_id", preprocessing_id)):
        if (made := getattr(router.record, field)) != here:
            raise InputError(
                f"{where}: made on another trunk, or in another precision: its {field} is {made[:19]}..., here it is "
                f"{here[:19]}...; make it again on this one: topgraft route"
            )


def _sealed(record: RouterRecord) -> RouterRecord:
    return replace(record, record_id=digest(encode(replace(record, record_id=""))))


def _dumps(record: RouterRecord) -> bytes:
    return (json.dumps(encode(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _tensors(file: Path, record: RouterRecord) -> dict[str, np.ndarray]:
    """Returns the verified tensors of a router."""
    if not file.is_file():
        raise InputError(f"{file}: missing; the router is incomplete")
    if sha256_file(file) != record.file:
        raise InputError(f"{file}: sha256 differs from the record's: truncated or altered after it was written")
    try:
        tensors: dict[str, Any] = dict(load_tensors(file.read_bytes()))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{file}: not a safetensors file: {error}") from error
    kernel, count = tensors.get("kernel", np.zeros((0, 0))), len(record.tasks)
    outputs = kernel.shape[-1]
    expected = {
        "kernel": ((len(kernel), outputs), "float32"),
        "bias": ((outputs,), "float32"),
        "owners": ((outputs,), "int32"),
    }
    if misfits(tensors, expected) or {*tensors["owners"].tolist()} not in ({*range(count)}, {*range(count + 1)}):
        raise InputError(f"{file}: kernel, bias or owners are missing, or do not fit {count} tasks")
    if content_hash(tensors, record.identity()) != record.content_id:
        raise InputError(f"{file}: content_id does not match the tensors and the identity in {RECORD}")
    return tensors
