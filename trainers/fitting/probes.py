"""The probes of a run: one forward pass, a choice of linear head, and a fit to every row but the gate's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import jax
import numpy as np

from adapters.inputs import encode_inputs
from adapters.labels.wording import label_texts
from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.cache import row_key
from backbone.trees import Params, map_leaves
from trainers.data.batches import Examples
from trainers.fitting.features import of_pooled, open_cache
from trainers.fitting.head_comparison import (
    Comparison,
    LabelledStates,
    compared,
    fitted_to_all,
    labelled_states,
    probe_model,
)
from trainers.fitting.head_options import are_few, average_on, options_on_one
from trainers.fitting.label_names import Names
from trainers.fitting.linear_head import pooled_features
from trainers.fitting.ways import Fitted, Unseen
from trainers.inputs import Inputs, climbed_blocks
from trainers.runs.run import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinalProbe:
    """A probe that is kept."""

    model: GraftModel
    params: Params  # {"adapter", "head"} on the host
    dev_logits: np.ndarray | None  # logits float32 [D,C] of the development rows, by heads that had not seen them
    unseen: Unseen | None  # rows that it was fitted to, as heads answer that had not seen them; None without any


def states_of(inputs: Inputs, run: Run) -> LabelledStates:
    """Computes the pooled states of train and development rows; the same pass stores the boundary below `top`."""
    train, dev = inputs.train, inputs.dev
    splits = [train, *([dev] if dev is not None else [])]
    names = names_of(inputs)
    pooled = _pooled(inputs, run, splits if names is None else [*splits, names])
    keys = [row_key(row) for split in splits for row in split.rows]
    labels = (train.labels, None if dev is None else dev.labels)
    return labelled_states(
        (pooled[0], pooled[1] if dev is not None else None),
        labels,
        keys,
        shared=inputs.dev_is_shared,
        names=None if names is None else Names(pooled[-1], names.labels),
    )


def names_of(inputs: Inputs) -> Examples | None:
    """Returns the names of labels that are words as rows, in their order; None without any, or beside many rows."""
    head, labels = inputs.config.head, inputs.data.labels
    if head.classes(np.zeros(0, np.int32)) is None or head.pair != "none" or inputs.backbone.spec.reads != "text":
        return None
    fitted = len(inputs.train) + (len(inputs.dev) if inputs.dev is not None and inputs.dev_is_shared else 0)
    if not are_few(fitted, len(labels)):
        return None
    texts = label_texts(labels)
    named = [number for number, text in enumerate(texts) if text is not None]
    if not named:
        return None
    if unread := [label for label, text in zip(labels, texts, strict=True) if text is None]:
        log.info("labels without words that tell them apart: %s; their names are not read", ", ".join(unread))
    rows = encode_inputs(head, inputs.backbone, [texts[i] for i in named], inputs.config.data.max_tokens).rows
    return replace(inputs.train, rows=rows, labels=np.array(named, np.int32), difficulty=None)


def _pooled(inputs: Inputs, run: Run, splits: Sequence[Examples]) -> list[np.ndarray]:
    """Returns the pooled states [N,L+1,P] of each split, from the cache where it can hold them."""
    store = open_cache(inputs.config.plan, inputs.probe(), inputs.backbone, {}, run)
    if store is not None:
        _, boundary = climbed_blocks(inputs.config, inputs.backbone.spec.blocks)
        trains = inputs.config.plan.highest in ("top", "all")  # only then are the states themselves needed
        for boundaries in ((boundary,), ()) if trains else ((),):
            try:
                store.fill(splits, boundaries, pooled=True, show=run.show)
            except MemoryError as error:
                log.warning("%s, plan.cache_gib allows less", error)
                continue
            return [store.pooled(split) for split in splits]
    run.computed.rows += sum(map(len, splits))
    model = probe_model(inputs.probe(), Probe(boundaries=()))
    parts = [pooled_features(model, inputs.backbone, {}, split, lambda count: None) for split in splits]
    return [part.reshape(len(part), len(model.taps), -1) for part in parts]


def final_probe(inputs: Inputs, rows: LabelledStates, comparison: Comparison) -> FinalProbe:
    """Returns the best option of a comparison, fitted to every row that may be fitted."""
    place = comparison.best
    option = comparison.options[place]
    model = probe_model(inputs.probe(), option.probe)
    head = fitted_to_all(option, comparison.factors[place], model, rows)
    log.info("probe: %s (%s: %s), fitted to %d rows", option, rows.how, comparison, rows.final.sum())
    dev_logits = None
    if inputs.dev is not None:
        dev_logits = comparison.logits[place][rows.is_dev]
        if not inputs.dev_is_shared:  # the head itself has not seen them
            dev_logits = of_pooled(model, rows.pooled[rows.is_dev]) @ head["kernel"] + head["bias"]
    unseen = None
    if (chosen := rows.scored & rows.final).any():
        unseen = Unseen(rows.how, comparison.logits[place][chosen], rows.labels[chosen])
    return FinalProbe(model, with_head(inputs, model, head), dev_logits, unseen)


def refitted(inputs: Inputs, run: Run, model: GraftModel) -> Fitted:
    """Returns a probe on the features of `model`, its kind of head chosen and fitted anew; for a new head alone."""
    probe = probe_of(model)
    assert probe is not None
    with run.phase("probe"):
        rows = states_of(inputs, run)
        head = inputs.config.head
        if probe.unit and are_few(int(rows.final.sum()), len(model.labels)):
            options = average_on((probe,), head, rows.names is not None)
        else:
            options = options_on_one(probe, head)
        final = final_probe(inputs, rows, compared(options, inputs.probe(), rows))
    return Fitted(final.model, final.params, dev_logits=final.dev_logits, unseen=final.unseen)


def probe_of(model: GraftModel) -> Probe | None:
    """Returns the features of a graft that is a probe of rows; None for any other graft."""
    method = model.feature_method
    alone = method is not None and method.reads_pooled and model.head.one_answer_per == "row"
    return cast(Probe, method) if alone else None


def with_head(inputs: Inputs, model: GraftModel, head: Params) -> Params:
    """Returns the parameters of a probe: the fitted ones, and the rest of the head at its start."""
    fresh = map_leaves(np.asarray, model.init(jax.random.key(inputs.config.seed)))
    return {"adapter": {}, "head": {**fresh["head"], **head}}


def judged(inputs: Inputs, rows: LabelledStates) -> np.ndarray:
    """Returns the rows that steps of a climb are compared on, bool [N]: those for development, else all scored."""
    return rows.scored if inputs.dev is None else rows.is_dev
