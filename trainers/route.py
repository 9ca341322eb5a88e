"""The verb `route`: a router that names the graft which answers an input, fitted to cached states of the trunk.

    route(["runs/banking/graft", "runs/travel/graft"], "router", Routing())

The rows are the grafts' own train and development rows, and those of files whose label names a graft. A share of them,
chosen by hash, certifies the threshold below which no graft answers (`trainers.scoring.risk`): a row is lost where the
wrong graft would answer. The head is fitted to pooled states of the others, which come from the boundary cache; no
graft is run. The rows of a graft that gives one label are fitted label by label. The promise is about inputs mixed as
these rows are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.router import NONE, SCHEMA, Promise, RoutedTask, Router, RouterRecord, save_router
from adapters.artefact.write import OtherBackbone
from adapters.graft import Graft, load_graft
from adapters.inputs import encode_inputs
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from adapters.routing import shared_boundary
from adapters.specs import Classification, Probe
from backbone.buckets import TokenRow
from backbone.cache import row_key
from backbone.errors import InputError, nearest
from backbone.home import home
from backbone.records import decode
from backbone.storage import Backbone
from metering.window import cpu_seconds
from trainers.config import Data, Plan
from trainers.config.load import override_part, versions
from trainers.config.routing import Routing
from trainers.data.batches import Examples, part_of
from trainers.data.prepare import prepare
from trainers.fitting.features import features
from trainers.fitting.linear_head import fit_linear
from trainers.runs.run import Run
from trainers.scoring.risk import control, min_rows

log = logging.getLogger(__name__)

SPLITS = ("train", "dev")  # rows of a graft that a router may learn from; it never judges on test or gate rows


@dataclass(frozen=True)
class Routed:
    """The result of `route`."""

    path: str  # folder of the router; "" where nothing was certified, so that nothing was written
    content_id: str  # content_id of the router
    tasks: tuple[RoutedTask, ...]
    boundaries: tuple[int, ...]  # boundaries that the router reads
    extra_blocks: int  # blocks of the bare trunk that run for the router alone
    promise: Promise
    cpu_seconds: float  # CPU seconds of the states and the fit

    @property
    def exit_status(self) -> int:
        """Returns 11, not enough evidence, where no threshold is certified."""
        return 0 if self.path else 11


@dataclass(frozen=True)
class Rows:
    """Rows of all grafts, by graft."""

    examples: Examples  # labels int [N] are numbers of outputs
    outputs: tuple[str, ...]  # names of the outputs: a graft, or a graft and one of its labels
    owners: np.ndarray  # int32 [K], number of each output's graft; one more is that of rows of no graft
    names: tuple[str, ...]  # names of the grafts, and `none` where there are such rows
    data: dict[str, str]  # fingerprint of the rows by graft


def route(
    paths: Sequence[str | Path],
    out: str | Path,
    routing: Routing,
    *,
    overrides: tuple[str, ...] = (),
    backbone: str | Path | None = None,
    show: bool = False,
) -> Routed:
    """Fits a router over stored grafts, and stores it at `out`.

    `overrides` are `data.x=y` settings for the files of `routing.rows`. Raises InputError for grafts of different
    trunks, for grafts without rows, and for rows that are too few to certify anything.
    """
    ready_to_compute()
    if Path(out).exists():
        raise InputError(f"{out}: exists already; name a new folder")
    grafts = _loaded(paths, backbone)
    trunk, cpu = next(iter(grafts.values())).backbone, cpu_seconds()
    max_tokens = max(graft.max_tokens for graft in grafts.values())
    boundaries = _boundaries(routing, grafts.values(), trunk)
    rows = _rows(grafts, routing, overrides, max_tokens)
    fitting, certifying = _apart(rows, routing)
    model = GraftModel(trunk.network, (Probe(boundaries=boundaries),), Classification(), rows.outputs)
    x, certifying_x = features(Plan(), model, trunk, {}, [fitting, certifying], Run(Path(), show))
    head = fit_linear(model, x, fitting.labels, None, "accuracy").head
    counts = np.bincount(rows.owners[fitting.labels], minlength=len(rows.names)).tolist()
    tasks = tuple(
        RoutedTask(name, _content_id(graft), str(Path(_called(str(path))[1]).resolve()), count)
        for (name, graft), path, count in zip(grafts.items(), paths, counts, strict=False)
    )
    record = _record(trunk, boundaries, tasks, max_tokens, rows.data)
    router, owners = Router(record, head["kernel"], head["bias"], rows.owners), rows.owners[certifying.labels]
    promise = promised(router, certifying_x, owners, routing)
    where, content_id = "", ""
    if promise is not None:
        router = save_router(out, replace(router, record=replace(record, promise=promise)))
        where, content_id = str(out), router.record.content_id
    extra = max(0, max(boundaries) - shared_boundary(grafts.values()))
    promise = promise or _promise(router, certifying_x, owners, routing, 1.0)
    return Routed(where, content_id, tasks, boundaries, extra, promise, cpu_seconds() - cpu)


def _record(
    trunk: Backbone, boundaries: tuple[int, ...], tasks: tuple[RoutedTask, ...], max_tokens: int, data: dict[str, str]
) -> RouterRecord:
    """Returns the record of a router that promises nothing yet."""
    return RouterRecord(
        schema=SCHEMA,
        content_id="",
        weights_id=trunk.weights_id,
        preprocessing_id=trunk.preprocessing_id,
        boundaries=boundaries,
        tasks=tasks,
        max_tokens=max_tokens,
        promise=Promise(0.0, 0.0, 0.0, 0, 0, 0.0, 0.0),
        data=data,
        versions=versions(),
    )


def promised(router: Router, pooled: np.ndarray, labels: np.ndarray, routing: Routing) -> Promise | None:
    """Returns what pooled states [N,P] and graft numbers int [N] certify; None, with a warning, where that is nothing.

    Of a router that promises nothing every row is answered.
    """
    if not routing.max_wrong:
        return _promise(router, pooled, labels, routing, 0.0)
    count, probabilities = len(router.names), router.probabilities(pooled)
    # rows whose largest output is that of no graft are never answered
    sure = np.where(probabilities.argmax(axis=1) < count, probabilities[:, :count].max(axis=1), -1.0)
    wrong = probabilities[:, :count].argmax(axis=1) != labels
    result = control(sure[:, None], wrong[:, None], routing.max_wrong, 1 - routing.confidence)
    promise = None if result.threshold is None else _promise(router, pooled, labels, routing, result.threshold)
    if promise is None or not promise.answered:
        log.warning(
            "route: nothing is certified but to answer nothing: of %d rows the right graft is the most probable one "
            "for %.1f %%, which does not show that at most %g are answered wrongly; give more rows, or a larger "
            "--max-wrong; 0 promises nothing",
            len(labels),
            100 * _promise(router, pooled, labels, routing, 0.0).accuracy,
            routing.max_wrong,
        )
        return None
    return promise


def _promise(router: Router, pooled: np.ndarray, labels: np.ndarray, routing: Routing, threshold: float) -> Promise:
    """Returns the promise of a threshold, and what the calibration rows say of it."""
    count, probabilities = len(router.names), router.probabilities(pooled)
    first = probabilities.argmax(axis=1)
    answered = (first < count) & (probabilities.max(axis=1) >= threshold)
    return Promise(
        threshold=threshold,
        max_wrong=routing.max_wrong,
        confidence=routing.confidence,
        rows=len(labels),
        wrong=int((answered & (first != labels)).sum()),
        answered=float(answered.mean()),
        accuracy=float((first == labels).mean()),
    )


def _loaded(paths: Sequence[str | Path], backbone: str | Path | None) -> dict[str, Graft]:
    """Returns the grafts by name, all on one trunk; raises InputError where they cannot share a router."""
    if len(paths) < 2:
        raise InputError("graft: a router picks among two grafts or more")
    grafts: dict[str, Graft] = {}
    trunk: str | Path | Backbone | None = backbone
    for text in paths:
        called, path = _called(str(text))
        try:
            graft = load_graft(path, trunk)
        except OtherBackbone as error:
            raise InputError(f"{error}; a router picks among grafts of one trunk") from error
        trunk = graft.backbone
        assert graft.manifest is not None
        name = called or graft.manifest.name
        if graft.model.head.pair != "none":
            raise InputError(f"{path}: reads pairs of texts, and a router reads one text; leave it out")
        if name in grafts or name == NONE:
            taken = f"the name {NONE!r} means that no graft answers" if name == NONE else "two grafts have one name"
            raise InputError(f"{path}: {name!r}: {taken}; give another: NAME={path}")
        grafts[name] = graft
    return grafts


def _called(text: str) -> tuple[str, str]:
    """Returns the name before the `=` of `NAME=FOLDER`, and the folder; "" for a folder alone."""
    name, equals, path = text.partition("=")
    return (name, path) if equals and "/" not in name and not Path(text).exists() else ("", text)


def _content_id(graft: Graft) -> str:
    assert graft.manifest is not None
    return graft.manifest.content_id


def _boundaries(routing: Routing, grafts: Any, trunk: Backbone) -> tuple[int, ...]:
    """Returns the boundaries to read: those asked for, or those whose states all grafts compute anyhow."""
    last, shared = trunk.spec.blocks, shared_boundary(grafts)
    if routing.boundaries:
        if max(routing.boundaries) > last:
            raise InputError(f"--boundaries: {max(routing.boundaries)} is not in 0..{last}")
        return routing.boundaries
    if not shared:
        log.warning("route: a graft adapts block 0, so only embeddings are shared; --boundaries 2 runs two blocks more")
    return tuple(sorted({0, shared}))


@dataclass(frozen=True)
class _Inputs:
    """The inputs of one graft."""

    inputs: list[Any]  # texts, or encoded images
    labels: list[str]  # label of each input; empty where the graft gives no single label
    data: str  # fingerprint of the rows


def _rows(grafts: Mapping[str, Graft], routing: Routing, overrides: tuple[str, ...], max_tokens: int) -> Rows:
    """Reads the rows of each graft: those that the files name, else the graft's own."""
    named = _of_files(routing, tuple(grafts), overrides)
    parts = {name: named[name] if name in named else _of_graft(name, graft) for name, graft in grafts.items()}
    if NONE in named:
        parts[NONE] = named[NONE]
    trunk = next(iter(grafts.values())).backbone
    rows: list[TokenRow] = []
    labels: list[int] = []
    outputs: dict[tuple[int, str], int] = {}
    for number, part in enumerate(parts.values()):
        encoded = encode_inputs(Classification(), trunk, part.inputs, max_tokens).rows
        for place in sorted(range(len(encoded)), key=lambda i: _place(encoded[i], b"chosen"))[: routing.max_rows]:
            rows.append(encoded[place])
            output = (number, part.labels[place] if part.labels else "")
            labels.append(outputs.setdefault(output, len(outputs)))
    examples = Examples(rows, np.array(labels, np.int32), trunk.lengths, trunk.preprocessing.fill)
    names = tuple(f"{number} {label}" for number, label in outputs)
    owners = np.array([number for number, _ in outputs], np.int32)
    return Rows(examples, names, owners, tuple(parts), {name: part.data for name, part in parts.items()})


def _of_files(routing: Routing, names: tuple[str, ...], overrides: tuple[str, ...]) -> dict[str, _Inputs]:
    """Returns the inputs of `--rows` by graft."""
    if not routing.rows:
        if overrides:
            raise InputError(f"--set {overrides[0]}: says how --rows is read, and there is no --rows")
        return {}
    data = override_part(Data(train=routing.rows, dev_fraction=0.0), "data", overrides)
    prepared = prepare(data, Classification.column, cache=home() / "data")
    inputs: dict[str, list[Any]] = {}
    table = prepared.table("train")
    for number, (label, *_) in enumerate(table.labels):
        if label not in (*names, NONE):
            raise InputError(
                f"{table.where[number]}: {label!r} names no graft of the router; {nearest(label, (*names, NONE))}"
            )
        inputs.setdefault(label, []).append(table.images[number] if table.images else table.texts[number])
    return {name: _Inputs(texts, [], prepared.fingerprint["train"]) for name, texts in inputs.items()}


def _of_graft(name: str, graft: Graft) -> _Inputs:
    """Returns the train and development inputs of a graft; their labels, where it gives one label a row."""
    assert graft.manifest is not None
    stored: Mapping[str, Any] = graft.manifest.training.config.get("data", {})
    data, head = decode(Data, dict(stored), "data"), graft.model.head
    if not data.train:
        raise InputError(f"{name}: the graft names no rows of its own; name some with --rows, labelled {name!r}")
    prepared = prepare(data, head.column, cache=home() / "data")
    tables = [prepared.table(split) for split in SPLITS if split in prepared.splits]
    inputs = [one for table in tables for one in (table.images or table.texts)]
    labels = [label for table in tables for label, *_ in table.labels] if "audit" in head.supports else []
    return _Inputs(inputs, labels, prepared.fingerprint["train"])


def _apart(rows: Rows, routing: Routing) -> tuple[Examples, Examples]:
    """Returns the rows to fit, and those that certify; raises InputError where either are too few."""
    examples = rows.examples
    certifies = np.array([_place(row, b"certifies") < routing.share for row in examples.rows])
    fitting, certifying = (part_of(examples, np.flatnonzero(side)) for side in (~certifies, certifies))
    for number, name in enumerate(rows.names):
        if not (rows.owners[fitting.labels] == number).any():
            raise InputError(f"{name}: no row is left to fit the router to; give more with --rows, or lower --share")
    if routing.max_wrong and len(certifying) < (needed := min_rows(routing.max_wrong, 1 - routing.confidence)):
        raise InputError(
            f"--max-wrong: {len(certifying)} certifying rows cannot show a share of {routing.max_wrong:g} at "
            f"confidence {routing.confidence:g}; it takes {needed}: give more rows, a larger --share or --max-wrong"
        )
    return fitting, certifying


def _place(row: TokenRow, salt: bytes) -> float:
    """Returns a number in [0, 1) from the tokens of a row, so that equal rows are on one side."""
    return int.from_bytes(hashlib.sha256(salt + row_key(row)).digest()[:6], "big") / 2**48
