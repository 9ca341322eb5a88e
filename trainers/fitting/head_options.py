"""The linear heads that a climb's probe is chosen from: on which states, of which kind, alone or averaged.

Few rows cannot tell which of several heads is the best, and the best of many on few rows is mostly chance. So where a
label has few rows, heads of different kinds are averaged, each with the weight that rows it has not seen give it. An
average of linear heads is a linear head. Where labels are named in words, discriminants read the names too
(`trainers.fitting.label_names`). Where rows are many, one head is chosen, the preferred one first. The numbers come
from docs/decisions.md, "No label is wasted".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special

from adapters.heads.head import Head
from adapters.specs import Probe
from backbone.spec import EncoderSpec
from trainers.fitting.label_names import NO_NAME, PULLS

SHRINKAGES = (0.3, 0.03, 0.1, 0.6)  # of the covariance of a discriminant; the first is preferred
STRENGTHS = (10.0, 100.0)  # of a logistic regression: its C, as scikit-learn defines it
OTHER_STRENGTHS = (10.0, 1.0, 100.0)  # of heads that have no discriminant
FEW_OF_LABEL = 20  # rows of a label, in the mean, up to which heads are averaged and names are read
MAX_EVIDENCE = 20  # rows that weigh the heads of an average; by the sum of many losses one head would take all
AVERAGED_SHRINKAGES = (0.3, 1.0)  # of averaged discriminants; 1 compares with the means of the classes alone


@dataclass(frozen=True)
class LinearHead:
    """A kind of linear head, on some pooled states."""

    probe: Probe  # features
    shrinkage: float | None = None  # shrinkage of a discriminant; None: fitted by the head's loss
    strength: float = 10.0  # C of a head that is fitted by its loss
    pull: float = 0.0  # rows that the name of a label counts as; 0 reads no name

    def __str__(self) -> str:
        kind = f"loss, C {self.strength:g}" if self.shrinkage is None else f"discriminant, shrinkage {self.shrinkage:g}"
        return f"{kind}, boundaries {_places(self.probe)}"


@dataclass(frozen=True)
class HeadOption:
    """One head, or several that are averaged; probes of several have unit length, and one reads what all read."""

    heads: tuple[LinearHead, ...]

    @property
    def probe(self) -> Probe:
        """Returns the features of the average: those of the head that reads the most boundaries."""
        return max((head.probe for head in self.heads), key=_breadth)

    def __str__(self) -> str:
        if len(self.heads) == 1:
            return str(self.heads[0])
        names = ", with the names of labels" if any(head.pull for head in self.heads) else ""
        return f"average of {len(self.heads)} heads{names}, boundaries {_places(self.probe)}"


def _breadth(probe: Probe) -> float:
    return len(probe.boundaries) or float("inf")


def _places(probe: Probe) -> str:
    return ", ".join(map(str, probe.boundaries)) or "all"


LAST = Probe(unit=True)  # the last state alone, at unit length


def are_few(rows: int, labels: int) -> bool:
    """Returns whether rows are so few that heads are averaged, and the names of labels are read."""
    return rows <= FEW_OF_LABEL * labels


def options_on(probes: Sequence[Probe], head: Head) -> tuple[HeadOption, ...]:
    """Returns the options on some features where rows are many; of a kind of head, the preferred number first."""
    if not _has_discriminant(head):
        return _alone(LinearHead(probe, None, strength) for probe in probes for strength in OTHER_STRENGTHS)
    closed = [LinearHead(probe, shrinkage) for probe in probes for shrinkage in SHRINKAGES]
    return _alone([*closed, *(LinearHead(probe, None, c) for probe in probes if probe == LAST for c in STRENGTHS)])


def options_on_one(probe: Probe, head: Head) -> tuple[HeadOption, ...]:
    """Returns the options where the features are given: also those by loss, whatever is read."""
    by_loss = _alone(LinearHead(probe, None, strength) for strength in STRENGTHS)
    return tuple(dict.fromkeys((*options_on((probe,), head), *by_loss)))


def average_on(probes: Sequence[Probe], head: Head, named: bool) -> tuple[HeadOption, ...]:
    """Returns the average where rows are few: of discriminants on each of `probes`, and a head by loss on the last.

    Where labels are `named`, some read the names. Of a head without discriminants the options are those of many rows.
    """
    if not _has_discriminant(head):
        return options_on(probes, head)
    pulls = PULLS if named else NO_NAME
    heads = [LinearHead(probe, a, pull=pull) for probe in probes for a in AVERAGED_SHRINKAGES for pull in pulls]
    return (HeadOption((*heads, LinearHead(probes[-1], None, STRENGTHS[0]))),)


def _has_discriminant(head: Head) -> bool:
    return head.classes(np.zeros(0, np.int32)) is not None


def _alone(heads: Iterable[LinearHead]) -> tuple[HeadOption, ...]:
    return tuple(HeadOption((head,)) for head in heads)


def several_states(spec: EncoderSpec) -> tuple[Probe, ...]:
    """Returns the features of several boundaries, at unit length: those of the upper half, then all."""
    upper = tuple(range(spec.blocks // 2 + 1, spec.blocks + 1))
    every = Probe(boundaries=(), unit=True)
    return (Probe(boundaries=upper, unit=True), every) if len(upper) > 1 else (every,)


def evidence(losses: np.ndarray) -> np.ndarray:
    """Returns the weight [K] of each head in an average from its losses [K,M]; equal ones without a row.

    The weight is exp(-sum of losses), normalised: Bayes' rule with predictions of unseen rows as likelihood. More than
    MAX_EVIDENCE rows count as so many of the mean loss. Source: pseudo-BMA, Yao et al. 2018, section 3.4.
    """
    return np.asarray(scipy.special.softmax(-_counted(losses.shape[1]) * losses.sum(axis=1)))


def evidence_without(losses: np.ndarray) -> np.ndarray:
    """Returns the weights [K,M] that the other rows give the heads, for each row."""
    others = losses.sum(axis=1, keepdims=True) - losses
    return np.asarray(scipy.special.softmax(-_counted(losses.shape[1] - 1) * others, axis=0))


def _counted(rows: int) -> float:
    """Returns the share of the rows that counts as evidence."""
    return min(1.0, MAX_EVIDENCE / max(rows, 1))
