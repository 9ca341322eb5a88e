"""Labels that contradict what is live: checked on the changed rows before anything is trained.

The live version has seen none of the added rows, so its score on those that are like the former ones should be what it
was on held-out rows. Shuffled, shifted or swapped labels lower it. An added row that is like no former one may be a new
kind of input, which the live version need not know. There an out-of-fold probe on the frozen backbone is asked instead:
what it cannot learn from the other rows, training cannot learn either. Rows whose label the live version lacks are left
to the probe too.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.heads.columns import numbered
from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.errors import InputError
from trainers.config import TrainConfig
from trainers.config.retrain import RowChecks
from trainers.data.batches import Examples, part_of
from trainers.fitting.features import features, logits_of_rows
from trainers.fitting.linear_head import cross_fitted_logits
from trainers.inputs import Inputs, only_rows, prepare
from trainers.retrain.beforehand import CHANGING
from trainers.retrain.compare import Contestant, champion_graft, read_alike
from trainers.retrain.gate import in_labels
from trainers.retrain.lineage import Check, Verdict
from trainers.retrain.rows import Rows
from trainers.runs.run import Run
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

MAX_ROWS = 2000  # rows of a kind that are looked at; more are drawn from
MIN_UNLIKE = 20  # added rows unlike the former ones from which on the probe is asked
FAMILIAR = 0.05  # share of former rows that are less alike their nearest neighbour than a familiar row is
MIN_OF_LABEL = 10  # added rows of a label, and former ones, from which on it is checked alone
LABEL_DROP = 0.4  # drop of the score on one label's rows, beyond doubt, that is no chance
BLOCK = 512  # rows whose cosines are computed at once
RESAMPLES = 200  # draws of rows for the spread of a score
DOUBT = 2.0  # spreads by which a score has to lie below its limit
LOOKS_ALIKE = 0.7  # share of a new label's rows, taken for a former label's, from which on it is that one misspelt
SHOWN = 10  # rows that a check names


ADDED, RELABELLED, SAME = range(3)  # kinds of rows: the text is new; the text is not, its label is; neither is


@dataclass(frozen=True)
class Sample:
    """Rows of all splits that change, some of each kind."""

    model: GraftModel  # the config's head on the bare backbone
    examples: Examples
    where: list[str]  # file and line of each row
    texts: np.ndarray  # hash of each text, uint64 [N]
    held_out: np.ndarray  # nobody trains on the row, bool [N]
    kind: np.ndarray  # kind of each row, int [N]

    @property
    def added(self) -> np.ndarray:
        """Returns which texts are new, bool [N]."""
        return np.asarray(self.kind == ADDED)

    @property
    def relabelled(self) -> np.ndarray:
        """Returns which texts have another label than before, bool [N]."""
        return np.asarray(self.kind == RELABELLED)

    def score(self, logits: np.ndarray, rows: np.ndarray, metric: str) -> float:
        """Returns a metric of logits [N,C] on the rows int [n]."""
        return float(gather(self.model, logits[rows], self.examples.labels[rows]).compute()[metric])

    def contradicted(self, logits: np.ndarray, rows: np.ndarray) -> tuple[str, ...]:
        """Returns file and line of the rows whose labels have the greatest loss under the logits [N,C]."""
        loss = self.model.head.host_loss(logits[rows], self.examples.labels[rows])
        return tuple(self.where[i] for i in rows[np.argsort(-loss, kind="stable")[:SHOWN]])

    def spread(self, logits: np.ndarray, rows: np.ndarray, metric: str) -> float:
        """Returns the standard deviation of a metric over resampled rows (Efron 1979)."""
        draw = np.random.default_rng(0)
        return float(
            np.std([self.score(logits, rows[draw.integers(0, len(rows), len(rows))], metric) for _ in range(RESAMPLES)])
        )


def label_checks(config: TrainConfig, champion: Contestant, rows: Rows, before: Rows) -> Iterator[Check]:
    """Yields the checks of changed labels; none where too few rows changed."""
    run = Run(champion.folder)
    inputs = prepare(only_rows(config), run, splits=CHANGING)
    sample = _sample(inputs, rows, before, config.retrain.rows.min_rows)
    if sample is None:
        return
    limits, metric = config.retrain.rows, config.retrain.gate.metric
    live, answerable = _live_answers(config, champion, inputs, sample)
    pooled = features(config.plan, sample.model, inputs.backbone, {}, [sample.examples], run)[0]
    alike = answerable & familiar(pooled, ~sample.added)
    if live is not None:
        yield from _relabelled(limits, metric, sample, live, np.flatnonzero(sample.relabelled & answerable))
        yield from _as_before(limits, metric, sample, live, np.flatnonzero(sample.added & alike))
    unlike = np.flatnonzero(sample.added & ~alike)
    if len(unlike) >= MIN_UNLIKE and sample.model.head.one_answer_per == "row":
        yield _learnable(limits, metric, sample, pooled, unlike)


def spelling_checks(
    config: TrainConfig, champion: Contestant, rows: Rows, before: Rows, pairs: Sequence[tuple[str, str]]
) -> Iterator[Check]:
    """Yields a check of each pair of a new label and a former one spelt nearly so: do their rows look alike?

    The live version answers the rows of the new label. If it takes nearly all of them for rows of the former one, the
    new label is a slip of the pen, as far as anybody can tell without asking a person.
    """
    run = Run(champion.folder)
    inputs = prepare(only_rows(config), run, splits=CHANGING)
    sample = _sample(inputs, rows, before, 1)
    if sample is None or sample.model.head.one_answer_per != "row":
        return
    live, _ = _live_answers(config, champion, inputs, sample)
    for new, known in pairs if live is not None else ():
        assert live is not None
        place, column = {name: i for i, name in enumerate(sample.model.labels)}, sample.model.head.column
        if new not in place or known not in place:
            continue
        mine = np.flatnonzero(column.carries(sample.examples.labels, [place[new]]))
        if not len(mine):
            continue
        taken = live[mine].argmax(axis=1) == place[known]
        share = float(taken.mean())
        reason = (
            f"the label {new!r} is new and spelt nearly as {known!r}, and the live version takes {taken.sum()} of its "
            f"{len(mine)} rows for that; mend the rows, or name it in retrain.rows.new_labels if it is meant"
        )
        wrong = share >= LOOKS_ALIKE
        where = tuple(sample.where[i] for i in mine[:SHOWN]) if wrong else ()
        verdict: Verdict = "FAIL" if wrong else "PASS"
        yield Check(f"spelling of label {new}", verdict, share, LOOKS_ALIKE, len(mine), reason, where=where)


def _sample(inputs: Inputs, rows: Rows, before: Rows, min_rows: int) -> Sample | None:
    """Draws added, relabelled and unchanged rows of each split; None where fewer than `min_rows` changed."""
    known: defaultdict[int, set[str]] = defaultdict(set)
    for name in before.keys() & set(CHANGING):
        for text, label in before[name].pairs:
            known[text].add(label)
    draw, kinds = np.random.default_rng(0), []
    splits = [name for name in CHANGING if name in rows and name in inputs.data.splits]
    for name in splits:
        pairs = rows[name].pairs
        kind = np.array(
            [ADDED if text not in known else SAME if label in known[text] else RELABELLED for text, label in pairs]
        )
        drawn = [draw.permutation(np.flatnonzero(kind == one))[:MAX_ROWS] for one in (ADDED, RELABELLED, SAME)]
        places = np.sort(np.concatenate(drawn))
        kinds.append((name, places, kind[places]))
    kind = np.concatenate([kind for *_, kind in kinds])
    if (kind != SAME).sum() < min_rows:
        return None
    parts = [part_of(inputs.data.splits[name], places) for name, places, _ in kinds]
    return Sample(
        model=GraftModel(inputs.backbone.network, (Probe(),), inputs.config.head, inputs.data.labels),
        examples=replace(
            parts[0],
            rows=[row for part in parts for row in part.rows],
            labels=np.concatenate([p.labels for p in parts]),
            difficulty=None,
        ),
        where=[inputs.data.tables[name].where[i] for name, places, _ in kinds for i in places],
        texts=np.concatenate([rows[name].texts[places] for name, places, _ in kinds]),
        held_out=np.concatenate([np.full(len(places), name != "train") for name, places, _ in kinds]),
        kind=kind,
    )


def _live_answers(
    config: TrainConfig, champion: Contestant, inputs: Inputs, sample: Sample
) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns the live version's logits [N,C] in the config's labels, and the rows whose labels it knows, bool [N].

    None and no row where it cannot be asked in the same terms.
    """
    nobody = np.zeros(len(sample.where), bool)
    try:
        graft = champion_graft(champion, inputs.backbone)
    except InputError as error:
        log.warning("the live version cannot be asked about the changed rows: %s", error)
        return None, nobody
    if graft.backbone is not inputs.backbone or not read_alike(graft, config):
        return None, nobody
    names, known = inputs.data.labels, numbered(graft.model.labels)
    new = [i for i, name in enumerate(names) if name not in known]
    answerable = ~graft.model.head.column.carries(sample.examples.labels, new) if new else ~nobody
    logits = logits_of_rows(config.plan, graft, sample.examples, again=True)
    return in_labels(logits, graft.model.labels, names), answerable


def familiar(pooled: np.ndarray, former: np.ndarray) -> np.ndarray:
    """Returns which rows are like a former one, bool [N], from features float32 [N,D] and which are former, bool [N].

    A row is familiar if its cosine to the nearest former row is one that nearly all former rows have to another.
    """
    if former.sum() < 2:
        return np.zeros(len(pooled), bool)
    centred = pooled - pooled[former].mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    nearest, places = np.empty(len(unit)), np.flatnonzero(former)
    for start in range(0, len(unit), BLOCK):
        cosine = unit[start : start + BLOCK] @ unit[former].T
        for row in range(len(cosine)):
            if former[start + row]:
                cosine[row, np.searchsorted(places, start + row)] = -1.0
        nearest[start : start + BLOCK] = cosine.max(axis=1)
    return np.asarray(nearest >= np.quantile(nearest[former], FAMILIAR))


def _relabelled(limits: RowChecks, metric: str, sample: Sample, live: np.ndarray, rows: np.ndarray) -> Iterator[Check]:
    """Yields the check of inputs that stayed and have another label now."""
    stayed = int((sample.kind != ADDED).sum())
    if len(rows) < limits.min_rows:
        return
    share, score = len(rows) / stayed, sample.score(live, rows, metric)
    reason = (
        f"{len(rows)} of {stayed} inputs that stayed have another label, retrain.rows.max_relabelled allows "
        f"{limits.max_relabelled:.0%}; {metric} of the live version on these: {score:.3f}"
    )
    wrong = share > limits.max_relabelled
    where = sample.contradicted(live, rows) if wrong else ()
    yield Check(
        "labels of inputs that stayed",
        "FAIL" if wrong else "PASS",
        share,
        limits.max_relabelled,
        len(rows),
        reason,
        where=where,
    )


def _as_before(limits: RowChecks, metric: str, sample: Sample, live: np.ndarray, rows: np.ndarray) -> Iterator[Check]:
    """Yields the checks of the live version's score on added inputs like former ones: of all, and of each label."""
    reference = np.flatnonzero(sample.held_out & (sample.kind == SAME))
    if len(reference) < limits.min_rows:
        return
    if len(rows) >= limits.min_rows:
        yield _drop(
            "labels of added inputs", limits.max_disagreement, "max_disagreement", metric, sample, live, rows, reference
        )
    column = sample.model.head.column
    for number, name in enumerate(sample.model.labels):
        mine, former = (part[column.carries(sample.examples.labels[part], [number])] for part in (rows, reference))
        if min(len(mine), len(former)) >= MIN_OF_LABEL:
            check = _drop(
                f"label {name} of added inputs", LABEL_DROP, "max_disagreement", metric, sample, live, mine, former
            )
            if check.verdict == "FAIL" and limits.max_disagreement < 1:
                yield check


def _drop(
    name: str,
    limit: float,
    field: str,
    metric: str,
    sample: Sample,
    logits: np.ndarray,
    rows: np.ndarray,
    reference: np.ndarray,
) -> Check:
    """Returns the check that a score on `rows` is not below that on `reference` by more than `limit`, beyond doubt."""
    here, usual = sample.score(logits, rows, metric), sample.score(logits, reference, metric)
    doubt = 0.0  # of no interest where the score lies above the limit
    if usual - here > limit:
        doubt = DOUBT * float(np.hypot(sample.spread(logits, rows, metric), sample.spread(logits, reference, metric)))
    wrong = usual - here - doubt > limit
    reason = (
        f"{metric} {here:.3f} on {len(rows)} added rows, {usual:.3f} on {len(reference)} former ones that nothing was "
        f"fitted to; retrain.rows.{field} allows a drop of {limit:g} beyond doubt ({doubt:.3f})"
    )
    where = sample.contradicted(logits, rows) if wrong else ()
    return Check(name, "FAIL" if wrong else "PASS", here - usual, -limit, len(rows), reason, where=where)


def _learnable(limits: RowChecks, metric: str, sample: Sample, pooled: np.ndarray, rows: np.ndarray) -> Check:
    """Returns the check that a probe fitted to other rows can tell the labels of added inputs unlike former ones."""
    keys = [str(text).encode() for text in sample.texts]
    logits = cross_fitted_logits(sample.model, pooled, sample.examples.labels, keys, metric)
    former = np.flatnonzero(sample.kind == SAME)
    return _drop(
        "labels of new kinds of inputs", limits.max_unlearnable, "max_unlearnable", metric, sample, logits, rows, former
    )
