"""The verb `prune`: a stored graft with a smaller suffix, without training.

    prune("runs/banking77/graft", "runs/banking77/pruned", Pruning(above=2, flops=0.6))

The adapter is folded into the kernels above the boundary. Heads and mlp units that the labelled rows need least are
removed, and what stays is scaled (`trainers.pruning`). The smaller kernels are part of the new graft. The blocks below
stay the trunk's, which every graft shares.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters.artefact.manifest import Manifest, Training
from adapters.artefact.write import save_graft
from adapters.block_counts import Parts, block_forward
from adapters.costs import blocks_forward
from adapters.forward import states_at
from adapters.graft import SCORE, Graft, dropped, load_graft, require_every_token
from adapters.machine import ready_to_compute
from adapters.merging import merge
from adapters.model import GraftModel
from adapters.specs import Probe
from adapters.suffix import SUFFIX, SuffixBlock, require_whole_blocks
from backbone.buckets import bucket_of
from backbone.errors import InputError
from backbone.precisions.precision import FLOAT32
from backbone.records import decode, encode
from backbone.spec import EncoderSpec
from backbone.trees import Params, flatten, map_leaves
from metering.window import cpu_seconds, window
from trainers.config import Data
from trainers.config.load import override_part, versions
from trainers.config.pruning import Pruning
from trainers.data.batches import Batch, Examples, part_of
from trainers.data.examples import TaskData, load_data
from trainers.pruning.fisher import mask_gradients
from trainers.pruning.masks import Limit, Masks, search
from trainers.pruning.tuning import tuned
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

TOKENS = 2048  # tokens of a batch
COVERED = 0.95  # share of the rows that fit into the one bucket in which all are run; longer ones are left out


@dataclass(frozen=True)
class Pruned:
    """The result of `prune`."""

    path: str  # folder of the new graft
    content_id: str  # content_id of the new graft
    pruned_from: str  # content_id of the graft that was pruned
    above: int  # boundary above which blocks were pruned
    blocks: tuple[SuffixBlock, ...]  # heads and units of each block that are left
    operations: float  # operations of these blocks, as a share of those before
    bytes: int  # bytes of these blocks in the stored graft
    rows: int  # rows by which heads and units were judged
    split: str  # split that both metrics were measured on
    before: dict[str, float]  # metrics of the graft that was pruned
    after: dict[str, float]  # metrics of the new graft
    cpu_seconds: float  # CPU seconds of the search and the tuning
    dropped: tuple[str, ...]  # parts of the graft that the new one lacks


def prune(
    path: str | Path,
    out: str | Path,
    pruning: Pruning,
    *,
    data: Data | None = None,
    overrides: tuple[str, ...] = (),
    backbone: str | Path | None = None,
) -> Pruned:
    """Stores the graft at `path` with fewer heads and units above a boundary, at `out`.

    The rows are those of `data`, or of the graft's own config with `overrides`. Raises InputError for a graft that
    cannot be pruned there, and for a constraint that no mask meets.
    """
    ready_to_compute()
    graft = load_graft(path, backbone)
    manifest = graft.manifest
    assert manifest is not None
    last = _require_prunable(graft, pruning.above, str(path))
    rows = _rows(graft, manifest, data, overrides)
    cpu = cpu_seconds()
    with window("prune") as cost:
        small = pruned_graft(graft, pruning, rows.splits["train"])
    spent = cpu_seconds() - cpu
    split = next(name for name in ("dev", "test", "train") if name in rows.splits)
    new = Graft(small.model, small.params, graft.backbone, graft.max_tokens)
    before, after = (_metrics(one, rows.splits[split]) for one in (graft, new))
    lost = dropped([graft], "a pruned graft", kept=(SCORE,))
    config = {**manifest.training.config, "pruned_from": manifest.content_id, "pruning": encode(pruning)}
    stored = save_graft(
        out,
        small.model,
        small.params,
        graft.backbone,
        name=manifest.name,
        max_tokens=graft.max_tokens,
        training=Training(
            config=config,
            seeds=manifest.training.seeds,
            data=rows.fingerprint,
            metrics={split: after},
            costs={"prune": encode(cost.record())},
            versions=versions(),
        ),
        scope=graft.scope,
    )
    span = (pruning.above, last)
    flops = [blocks_forward(one, 1, small.length, span, adapted=False).flops for one in (small.model, graft.model)]
    return Pruned(
        path=str(out),
        content_id=stored.content_id,
        pruned_from=manifest.content_id,
        above=pruning.above,
        blocks=small.model.suffix,
        operations=flops[0] / flops[1],
        bytes=_bytes(small.params[SUFFIX]),
        rows=small.rows,
        split=split,
        before=before,
        after=after,
        cpu_seconds=spent,
        dropped=lost,
    )


@dataclass(frozen=True)
class Smaller:
    """A graft with a smaller suffix, in memory."""

    model: GraftModel
    params: Params  # parameters on the host
    rows: int  # rows by which heads and units were judged
    length: int  # tokens of their bucket, at which operations are counted


def pruned_graft(graft: Graft, pruning: Pruning, train: Examples) -> Smaller:
    """Returns a graft with a smaller suffix, judged by train rows."""
    model, first, network = graft.model, pruning.above, graft.backbone.network
    trunk = merge(model, graft.backbone.params, graft.params.get("adapter", {}))
    methods = (model.feature_method,) if model.feature_method is not None else (Probe(),)
    plain = replace(model, methods=methods)
    params = {"adapter": graft.params.get("adapter", {}), "head": graft.params["head"]}
    batches, rows = _batches(graft, plain, train, pruning)
    gradients = mask_gradients(plain, trunk, params, first, batches)
    length = batches[0]["mask"].shape[1]
    limit = _limit(pruning, network.spec, max(plain.taps) - first, trunk, length)
    masks = search(*gradients, limit)
    states = [batch["states"][first] for batch in batches]
    blocks = tuned(network, trunk, first, masks, states, [_visible(batch, plain) for batch in batches])
    smaller = replace(plain, suffix=_suffix(masks, first))
    names = [method.tag for method in methods]
    adapter = {name: leaves for name, leaves in params["adapter"].items() if name in names}
    host = map_leaves(np.asarray, {"adapter": adapter, "head": params["head"]})
    return Smaller(smaller, {**host, SUFFIX: blocks}, rows, length)


def _suffix(masks: Masks, first: int) -> tuple[SuffixBlock, ...]:
    counts = zip(masks.heads.sum(axis=1).tolist(), masks.units.sum(axis=1).tolist(), strict=True)
    return tuple(SuffixBlock(first + number, heads, units) for number, (heads, units) in enumerate(counts))


def _require_prunable(graft: Graft, above: int, where: str) -> int:
    """Returns the highest boundary that the graft reads; raises InputError where its blocks cannot be pruned."""
    require_every_token(graft, where)
    last, lowest = max(graft.model.taps), min(graft.model.adapted_blocks, default=graft.backbone.spec.blocks)
    if graft.model.suffix:
        raise InputError(f"{where}: pruned already; prune the graft that it was made from")
    if graft.backbone.precision != FLOAT32:
        raise InputError(
            f"{where}: grafted in {graft.backbone.precision}; kernels are pruned in float32: train it with "
            "--set precision=float32"
        )
    require_whole_blocks(graft.backbone.spec, where)
    if not 0 <= above < last:
        raise InputError(f"--above: {above} is not in 0..{last - 1}, below the last block that the graft reads")
    if above > lowest:
        raise InputError(
            f"--above: the graft adapts block {lowest}, and blocks below {above} would stay the trunk's; give {lowest} "
            "or less"
        )
    return last


def _rows(graft: Graft, manifest: Manifest, data: Data | None, overrides: tuple[str, ...]) -> TaskData:
    """Reads the train rows, and those that tell what pruning lost."""
    stored: Mapping[str, Any] = manifest.training.config.get("data", {})
    chosen = data if data is not None else override_part(decode(Data, dict(stored), "data"), "data", overrides)
    if not chosen.train:
        raise InputError("data.train: no labelled rows to judge heads and units by; name a config with --data")
    return load_data(
        chosen, graft.model.head, graft.backbone, labels=graft.model.labels, splits=("train", "dev", "test")
    )


def _batches(graft: Graft, plain: GraftModel, train: Examples, pruning: Pruning) -> tuple[list[Batch], int]:
    """Returns batches of one bucket with the states that the suffix starts from, and the number of rows in them."""
    lengths = np.array([len(row) for row in train.rows])
    bucket = bucket_of(int(np.quantile(lengths, COVERED, method="higher")), train.lengths)
    fitting = np.flatnonzero(lengths <= bucket)
    chosen = np.sort(np.random.default_rng(0).permutation(fitting)[: pruning.rows])
    size = max(1, min(TOKENS // bucket, len(chosen)))
    sample, batches = part_of(train, chosen), []
    bare = replace(plain, methods=(Probe(),))
    for start in range(0, len(chosen), size):
        batch = sample.gather(bucket, np.arange(start, min(start + size, len(chosen))), size)
        below = sorted({*(tap for tap in plain.taps if tap < pruning.above), pruning.above})
        inputs = {"ids": batch["ids"], "mask": batch["mask"]}
        states = states_at(bare, graft.backbone.params, {}, inputs, below)
        batches.append(Batch(states=states, mask=batch["mask"], labels=batch["labels"], weights=batch["weights"]))
    return batches, len(chosen)


def _visible(batch: Batch, model: GraftModel) -> np.ndarray:
    """Returns the tokens bool [B,T] of rows that are no filling."""
    weights = np.repeat(np.asarray(batch["weights"]) > 0, model.sides)
    return np.asarray(batch["mask"] & weights[:, None])


def _limit(pruning: Pruning, spec: EncoderSpec, blocks: int, trunk: Params, length: int) -> Limit:
    """Returns the constraint as a sum over heads and units; both quantities are linear in their numbers."""
    heads, units = spec.heads, spec.mlp_width
    if pruning.flops:
        whole, fewer_heads, fewer_units = (
            block_forward(spec, 1, length, Parts(*parts)).flops
            for parts in ((heads, units), (heads - 1, units), (heads, units - 1))
        )
        head, unit = whole - fewer_heads, whole - fewer_units
        total, allowed = blocks * whole, pruning.flops * blocks * whole
    else:
        depth, gates = spec.width // heads, 2 if spec.mlp == "gated" else 1
        head, unit = 4.0 * (4 * spec.width * depth + 3 * depth), 4.0 * (gates * (spec.width + 1) + spec.width)
        chosen = {name: leaf for name, leaf in trunk["blocks"].items() if 0 <= int(name) - pruning.above < blocks}
        total, allowed = float(_bytes(chosen)), float(pruning.bytes)
    fixed = total - blocks * (heads * head + units * unit)  # norms, biases behind what is cut
    return Limit("flops" if pruning.flops else "bytes", allowed, head, unit, fixed)


def _bytes(tree: Params) -> int:
    return sum(int(leaf.nbytes) for leaf in flatten(tree).values())


def _metrics(graft: Graft, examples: Examples) -> dict[str, float]:
    logits = graft.logits_of_rows(examples.rows)
    return dict(gather(graft.model, jax.device_get(logits), examples.labels).compute())
