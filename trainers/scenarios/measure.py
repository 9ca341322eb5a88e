"""One scenario from its request to its result: rows, system, run, scores, verdict."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from adapters.graft import load_graft
from adapters.machine import ready_to_answer
from backbone.errors import InputError
from backbone.home import home
from registry.place import Place
from trainers.data.examples import load_data, texts_of
from trainers.data.inference import infer
from trainers.data.prepare import prepare
from trainers.inputs import data_of
from trainers.scenarios.conditions import require_readable, watched
from trainers.scenarios.connections import address_of
from trainers.scenarios.early_stopping import CONFIDENCE
from trainers.scenarios.limits import restrict_cores, restricted_quota
from trainers.scenarios.load import run
from trainers.scenarios.record import record_latencies, version_of
from trainers.scenarios.request import Load
from trainers.scenarios.result import ScenarioResult, checked, latencies_of
from trainers.scenarios.systems import GraftSystem, ServerSystem, System

NO_ROWS = "--file: a scenario checks its answers in the same run, so it needs labelled rows: pass a file of them"


def is_url(system: str) -> bool:
    """Returns whether a system is a server."""
    return system.lower().startswith(("http://", "https://"))


def measure_scenario(
    name: str,
    load: Load,
    *,
    overrides: tuple[str, ...] = (),
    backbone: str | None = None,
    precision: str = "",
    place: Place | None = None,
) -> ScenarioResult:
    """Runs a scenario on the graft in the folder `name`, or on the server at that URL.

    `overrides` are settings `data.x=y` of the rows; `place` is where `load.record` records the latencies. Raises
    InputError for rows without labels, for a limit that cannot be checked here, and where no query is answered.
    """
    assert load.scenario is not None
    remote = is_url(name)
    load.require_fits(name, remote=remote)
    if remote and (backbone or precision):
        raise InputError("--backbone, --precision: belong to a graft in this process; the server chose its own")
    if load.cores is not None:
        restrict_cores(load.cores)
    require_readable(load, local=not remote)
    recorded = version_of(place or Place(), load.record, name) if load.record else None
    with contextlib.ExitStack() as stack:
        if load.cpu_quota is not None:
            stack.enter_context(restricted_quota(load.cpu_quota))
        if remote:
            system, rows = _server(name, load, overrides)
        else:
            system, rows = _graft(name, load, overrides, backbone, precision)
        system.warm_up()
        with watched(system.local) as samples:
            trace = run(load.scenario, system, rows, seconds=load.seconds, seed=load.seed, rate=load.rate or 0.0)
    assert samples.conditions is not None
    if not trace.answers:
        raise InputError(f"{name}: no query was answered: {trace.failures[0]}")
    metrics, answered = system.scores()
    joules = samples.conditions.joules.value
    result = ScenarioResult(
        system=name,
        scenario=load.scenario,
        seed=load.seed,
        rate=load.rate,
        queries=trace.queries,
        failures=len(trace.failures),
        failure=trace.failures[0] if trace.failures else "",
        seconds=trace.seconds,
        rows_per_second=trace.answers / trace.seconds,
        latencies=latencies_of(trace),
        confidence=CONFIDENCE,
        late_ms=1e3 * trace.latest,
        metrics=metrics,
        rows=answered,
        conditions=samples.conditions,
        joules_per_1000=None if joules is None else 1e3 * joules / trace.answers,
        checks=checked(trace, load, metrics, samples.conditions),
    )
    if recorded:
        record_latencies(*recorded, result)
    return result


def _graft(
    name: str, load: Load, overrides: tuple[str, ...], backbone: str | None, precision: str
) -> tuple[System, int]:
    """Returns a graft as a system, and the number of its rows."""
    ready_to_answer()
    graft = load_graft(name, backbone, precision=precision)
    data = data_of(graft, overrides)
    if load.files:
        data = replace(data, test=load.files)
    if not data.test:
        raise InputError(NO_ROWS)
    data = replace(data, train=(), dev=())
    rows = load_data(data, graft.model.head, graft.backbone, labels=graft.model.labels, splits=("test",))
    table, examples = rows.tables["test"], rows.splits["test"]
    texts = list(table.images) if table.images else texts_of(table, graft.model.head)
    return GraftSystem(name, graft, texts, examples, batching=load.scenario == "server"), len(examples)


def _server(url: str, load: Load, overrides: tuple[str, ...]) -> tuple[System, int]:
    """Returns a server as a system, and the number of rows; columns are inferred as `train FILE` infers them."""
    token = "" if load.token_file is None else _token(Path(load.token_file))
    address = address_of(url, load.task, token)
    config = infer(load.files[:1], overrides).config
    if config.head.one_answer_per != "row" or config.head.pair != "none":
        raise InputError(f"{load.files[0]}: servers answer single texts, with one label or several")
    data = replace(config.data, train=(), dev=(), test=load.files)
    table = prepare(data, config.head.column, cache=home() / "data").table("test")
    return ServerSystem(url, address, table.texts, table.labels), len(table)


def _token(path: Path) -> str:
    """Returns the first line of a file; raises InputError where there is none."""
    try:
        written = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"--token-file: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--token-file: {path}: no text in UTF-8: {error.reason}; write the token alone") from error
    if not written or not written[0].strip():
        raise InputError(f"--token-file: {path}: the first line holds no token")
    return written[0].strip()
