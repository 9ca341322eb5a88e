"""The verb `drop-tokens`: a stored graft that drops the tokens which receive least attention, under a certified bound.

    drop_tokens("runs/books/graft", "runs/books/dropping", Dropping(rows=("held_out.csv",), at=(2,)))

The numbers of tokens that may stay are tried from many to few, on rows that nothing was fitted to. The fewest are taken
for which every larger number was certified as well (fixed-sequence testing, `trainers.scoring.risk`). Nothing is
trained. The head of a probe is a fit to pooled states, so it is fitted anew to those of the tokens that stay; an
adapted graft keeps its head.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.manifest import Manifest, Training
from adapters.artefact.write import save_graft
from adapters.costs import blocks_forward
from adapters.graft import SCORE, Graft, dropped, load_graft
from adapters.heads.head import kinds_for
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from backbone.buckets import bucket_of
from backbone.cache import row_key
from backbone.errors import InputError
from backbone.network.dropping import MIN_TOKENS, Drop
from backbone.records import decode, encode
from backbone.trees import Params, map_leaves
from metering.window import window
from trainers.config import Data, EarlyExits, Plan, TrainConfig
from trainers.config.dropping import Dropping
from trainers.config.load import override_part, versions
from trainers.curation.select import with_subset
from trainers.data.batches import Examples, part_of
from trainers.data.examples import TaskData, load_data
from trainers.fitting.linear_head import fit_linear, pooled_features
from trainers.inputs import Inputs, split_off_calibration
from trainers.runs.run import Run
from trainers.scoring.metrics import gather
from trainers.scoring.risk import excess_p_value
from trainers.subsets.random import RandomSubset
from trainers.subsets.subset import Subset

log = logging.getLogger(__name__)

SHARES = (0.75, 0.5, 0.375)  # default numbers of tokens that may stay, of the longest input


@dataclass(frozen=True)
class Tried:
    """What the rows say of one number of tokens."""

    drops: tuple[Drop, ...]
    worse: int  # rows that are wrong with dropped tokens alone
    better: int  # rows that are wrong with all tokens alone
    p_value: float  # p-value of "the share of rows with a mistake grows by more than the bound"


@dataclass(frozen=True)
class DroppingGraft:
    """The result of `drop-tokens`."""

    path: str  # folder of the new graft; "" where nothing was certified, so that nothing was written
    content_id: str  # content_id of the new graft
    made_from: str  # content_id of the graft with all tokens
    drops: tuple[Drop, ...]  # what the new graft drops
    operations: float  # operations of all blocks at the longest input, as a share of those with all tokens
    tried: tuple[Tried, ...]  # numbers of tokens in the order in which they were tested
    rows: int  # rows that certify
    long_rows: int  # rows among them that lose tokens in the new graft; 0 where nothing was certified
    extra_error: float  # bound on what the share of rows with a mistake grows by
    confidence: float  # probability that the bound holds
    before: dict[str, float]  # metrics of the graft with all tokens on these rows
    after: dict[str, float]  # metrics of the new graft on these rows
    dropped: tuple[str, ...]  # parts of the graft that the new one lacks

    @property
    def exit_status(self) -> int:
        """Returns 11, not enough evidence, where nothing is certified."""
        return 0 if self.path else 11


def drop_tokens(
    path: str | Path,
    out: str | Path,
    dropping: Dropping,
    *,
    overrides: tuple[str, ...] = (),
    backbone: str | Path | None = None,
) -> DroppingGraft:
    """Stores the graft at `path` with dropped tokens, at `out`.

    `overrides` are `data.x=y` settings for the files of `dropping.rows`. Raises InputError for a graft that needs every
    token, and for rows that the graft was trained on.
    """
    ready_to_compute()
    if Path(out).exists():
        raise InputError(f"{out}: exists already; name a new folder")
    graft = load_graft(path, backbone)
    manifest = graft.manifest
    assert manifest is not None
    ladders = _ladders(graft, dropping, str(path))
    known, rows = _rows(graft, manifest, dropping, overrides)
    full = graft.logits_of_rows(rows.rows)
    with window("drop-tokens") as cost:
        best, tried = _certified(graft, ladders, known.get("train"), rows, full, dropping)
    chosen, content_id = best or graft, ""
    if best is None:
        log.warning("%s", _why_none(tried[0], len(rows), dropping))
    else:
        scored = {name: _metrics(best, part) for name, part in known.items() if name != "train"}
        content_id = _stored(best, manifest, out, dropping, tried, scored, cost).content_id
    span = (0, max(graft.model.taps))
    length = _longest(graft)
    flops = [blocks_forward(one, 1, length, span).flops for one in (chosen.model, graft.model)]
    return DroppingGraft(
        path="" if best is None else str(out),
        content_id=content_id,
        made_from=manifest.content_id,
        drops=chosen.model.drops,
        operations=flops[0] / flops[1],
        tried=tuple(tried),
        rows=len(rows),
        long_rows=sum(len(row) > drop.keep for drop in chosen.model.drops[:1] for row in rows.rows),
        extra_error=dropping.extra_error,
        confidence=dropping.confidence,
        before=_metrics(graft, rows),
        after=_metrics(chosen, rows),
        dropped=() if best is None else dropped([graft], "a graft that drops tokens", kept=(SCORE,)),
    )


def _certified(
    graft: Graft,
    ladders: list[tuple[Drop, ...]],
    train: Examples | None,
    rows: Examples,
    full: np.ndarray,
    dropping: Dropping,
) -> tuple[Graft | None, list[Tried]]:
    """Returns the graft with the last drops that the rows certify, and what was tried.

    `full` are its logits [N,C] with all tokens.
    """
    best, tried = None, []
    mistakes = graft.model.head.mistakes(full, rows.labels)
    for drops in ladders:
        one = _with_drops(graft, drops, train)
        fewer = one.model.head.mistakes(one.logits_of_rows(rows.rows), rows.labels)
        worse, better = fewer > mistakes, fewer < mistakes
        p_value = excess_p_value(worse, better, dropping.extra_error)
        tried.append(Tried(drops, int(worse.sum()), int(better.sum()), p_value))
        if p_value > 1 - dropping.confidence:
            break
        best = one
    return best, tried


def _stored(
    one: Graft,
    manifest: Manifest,
    out: str | Path,
    dropping: Dropping,
    tried: list[Tried],
    metrics: dict[str, dict[str, float]],
    cost: Any,
) -> Manifest:
    """Writes the new graft, with what was tested in its record.

    `metrics` are those on splits on which the graft with all tokens has some, so that one may stand in for the other.
    """
    promise = {"extra_error": dropping.extra_error, "confidence": dropping.confidence, "tried": encode(tuple(tried))}
    config = {**manifest.training.config, "pruned_from": manifest.content_id, "drop_tokens": promise}
    training = Training(
        config=config,
        seeds=manifest.training.seeds,
        data=manifest.training.data,
        metrics=metrics,
        costs={"drop-tokens": encode(cost.record())},
        versions=versions(),
    )
    return save_graft(
        out,
        one.model,
        one.params,
        one.backbone,
        name=manifest.name,
        max_tokens=one.max_tokens,
        training=training,
        scope=one.scope,
    )


def _longest(graft: Graft) -> int:
    return bucket_of(graft.max_tokens, graft.backbone.lengths)


def _ladders(graft: Graft, dropping: Dropping, where: str) -> list[tuple[Drop, ...]]:
    """Returns the drops to test, from those that keep most tokens; raises InputError where there can be none."""
    model, longest = graft.model, _longest(graft)
    if model.drops:
        raise InputError(f"{where}: drops tokens already; take the graft that it was made from")
    if "early_exits" not in model.head.supports:
        raise InputError(
            f"{where}: head.kind={model.head.kind}: a bound is certified for answers that are right or wrong; it needs "
            f"head.kind={kinds_for('early_exits')}"
        )
    at = dropping.at or (max(1, graft.backbone.spec.blocks // 3),)
    keeps = dropping.keep or tuple(max(int(share * longest), MIN_TOKENS) for share in SHARES)
    ladders = []
    for keep in dict.fromkeys(keeps):
        numbers = [max(keep >> place, MIN_TOKENS) for place in range(len(at))]
        if not dropping.keep and sorted({longest, *numbers}, reverse=True) != [longest, *numbers]:
            continue  # a default that drops nothing at one of the boundaries
        drops = tuple(map(Drop, at, numbers))
        replace(model, drops=drops)  # raises InputError where the graft needs every token
        if keep >= longest:
            raise InputError(f"--keep: {keep} of at most {longest} tokens drops none")
        ladders.append(drops)
    if not ladders:
        raise InputError(
            f"--at: {len(at)} boundaries leave nothing to drop of at most {longest} tokens, of which {MIN_TOKENS} "
            "stay; name fewer"
        )
    return ladders


def _rows(
    graft: Graft, manifest: Manifest, dropping: Dropping, overrides: tuple[str, ...]
) -> tuple[dict[str, Examples], Examples]:
    """Returns the graft's train and development rows, as far as it has some, and the rows that certify.

    Train rows are those of the config's subset. Rows that anything was fitted to certify nothing.
    """
    stored: Mapping[str, Any] = manifest.training.config.get("data", {})
    known = decode(Data, dict(stored), "data")
    head, labels = graft.model.head, graft.model.labels
    held_out = override_part(
        replace(known, train=dropping.rows, dev=(), test=(), dev_fraction=0.0, gate_fraction=0.0, train_fraction=1.0),
        "data",
        overrides,
    )
    rows = load_data(held_out, head, graft.backbone, labels=labels, splits=("train",)).splits["train"]
    if not known.train:
        if _fits_anew(graft.model):
            raise InputError("data.train: the graft names no train rows, to which the head of a probe is fitted anew")
        return {}, rows
    data = load_data(known, head, graft.backbone, labels=labels, splits=("train", "dev"))
    splits = dict(_learned(graft, manifest, known, data).data.splits)
    fitted = ("train", "dev") if _climbed(graft.model, manifest) and not known.dev else ("train",)
    seen = {row_key(row) for name in fitted if name in splits for row in splits[name].rows}
    new = np.array([row_key(row) not in seen for row in rows.rows], bool)
    if not new.any():
        raise InputError(f"--rows: the graft was trained on all {len(rows)} of them; name rows that it has not seen")
    if not new.all():
        log.warning("drop-tokens: %d of %d rows are train rows, and left out", (~new).sum(), len(rows))
    return splits, part_of(rows, np.flatnonzero(new))


def _learned(graft: Graft, manifest: Manifest, known: Data, data: TaskData) -> Inputs:
    """Returns the rows of the graft's run: without the calibration rows of exits, and those of its subset alone."""
    stored = manifest.training.config
    plan, head = stored.get("plan", {}), data.head
    names = {name: stored[name] for name in ("seed", "metric") if name in stored}
    config = TrainConfig(
        data=known,
        head=head,
        subset=decode(Subset, stored["subset"], "subset") if "subset" in stored else RandomSubset(),
        exits=decode(EarlyExits, stored.get("exits", {}), "exits"),
        plan=Plan(stages="all", **{name: plan[name] for name in ("cache", "cache_gib") if name in plan}),
        **names,
    )
    inputs = Inputs(config, graft.backbone.path, graft.backbone, data)
    if config.exits.boundaries:
        rest, calibration = split_off_calibration(config, graft.backbone, data)
        inputs = replace(inputs, data=rest, calibration=calibration)
    return with_subset(inputs, Run(Path()))


def _climbed(model: GraftModel, manifest: Manifest) -> bool:
    """Returns whether the graft is a probe that a climb chose, which is fitted to its development rows too.

    The config then names another method.
    """
    named = manifest.training.config.get("adapter", {}).get("method")
    return _fits_anew(model) and named not in {method.tag for method in model.methods}


def _fits_anew(model: GraftModel) -> bool:
    """Returns whether the head is a fit to pooled states of the bare trunk."""
    return all(method.fitted for method in model.methods)


def _with_drops(graft: Graft, drops: tuple[Drop, ...], train: Examples | None) -> Graft:
    """Returns the graft with dropped tokens, in memory; `train` fits a probe's head anew."""
    model = replace(graft.model, drops=drops)
    params: Params = map_leaves(np.asarray, graft.params)
    if train is not None and _fits_anew(model):
        x = pooled_features(model, graft.backbone, {}, train, lambda count: None)
        params = {**params, "head": fit_linear(model, x, train.labels, None, model.head.metrics[0]).head}
    return replace(graft, model=model, params=params, exits=None, manifest=None)


def _why_none(tried: Tried, rows: int, dropping: Dropping) -> str:
    return (
        f"drop-tokens: nothing is certified: with {tried.drops[0].keep} tokens from {tried.drops[0].boundary} on, "
        f"{tried.worse} of {rows} rows are worse and {tried.better} better, which does not show an extra error of at "
        f"most {dropping.extra_error:g} at confidence {dropping.confidence:g}; give more rows, a larger --extra-error, "
        "or more tokens (--keep)"
    )


def _metrics(one: Graft, rows: Examples) -> dict[str, float]:
    return dict(gather(one.model, one.logits_of_rows(rows.rows), rows.labels).compute())
