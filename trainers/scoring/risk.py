"""The control of an early exit's risk: Learn-then-Test on rows that nothing was fitted to. Imports no jax.

Angelopoulos et al. 2021, arXiv 2110.01052. The thresholds are a grid that was fixed beforehand. The hypothesis of each
is "its risk exceeds epsilon". Thresholds are tested from strict to loose at level delta. The first that cannot be
rejected ends the test (fixed-sequence testing, their section 3.2). On any data, the risk of the loosest rejected
threshold exceeds epsilon with probability at most delta over draws of the rows.

The loss of a row is 1 where the early answer has more mistakes than the full one, else 0. Of one label, that is where
only the early answer is wrong; of several, where more of their decisions are. So the `k` losses of `n`
rows are binomial, and P(Bin(n, epsilon) <= k) is an exact p-value. No bound for losses in [0, 1] improves it. Rows that
the early answer gets more right are not counted, so the share of rows with a mistake grows by the risk at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.special

# Thresholds on the largest probability, from strict to loose: the doubt that is let through grows by a tenth or less.
GRID = 1 - np.geomspace(1e-5, 0.999, 150)


BETS = 0.5  # largest share of the capital that a row may cost


def excess_p_value(worse: np.ndarray, better: np.ndarray, epsilon: float) -> float:
    """Returns a p-value of "the share of rows with a mistake grows by more than `epsilon`".

    `worse` bool [N] are rows that only the cheaper answer gets wrong, `better` those that only the other one does. Rows
    of both kinds count, so the difference of their shares is tested, by betting on its mean (Waudby-Smith & Ramdas
    2020, arXiv 2010.09686, section 4): under the hypothesis the capital is a supermartingale, and exceeds 1/p with
    probability at most p. A bet depends on earlier rows alone, so the order of rows must not depend on their answers.
    """
    excess = worse.astype(float) - better.astype(float)  # in [-1, 1]
    before = np.arange(len(excess))  # rows before each row
    variance = (0.25 + np.concatenate([[0.0], np.cumsum(excess**2)[:-1]])) / (before + 1)
    bets = np.sqrt(2 * math.log(10) / (variance * max(len(excess), 1)))
    bets = np.minimum(bets, BETS / (1 + epsilon))
    capital = np.exp(np.cumsum(np.log1p(bets * (epsilon - excess))))
    return float(min(1.0, 1 / capital.max(initial=1.0)))


@dataclass(frozen=True)
class Control:
    """The outcome of a test."""

    threshold: float | None  # loosest certified threshold; None: not even the strictest is certified
    rows: int  # calibration rows
    losses: int  # rows lost at the threshold (at the strictest, where none is certified)


def p_value(losses: int | np.ndarray, rows: int, epsilon: float) -> np.ndarray:
    """Returns P(at most `losses` of `rows`) for the risk `epsilon`; valid for every larger risk too."""
    return np.asarray(scipy.special.bdtr(losses, rows, epsilon))  # the binomial distribution function


def min_rows(epsilon: float, delta: float) -> int:
    """Returns the number of rows below which not even a threshold without any loss is certified."""
    return math.ceil(math.log(delta) / math.log1p(-epsilon) - 1e-9)


def control(confidence: np.ndarray, worse: np.ndarray, epsilon: float, delta: float) -> Control:
    """Finds the loosest certified threshold.

    `confidence` [N,E] of E exits, in order, and whether each answers a row worse than full depth, bool [N,E]. A row
    takes the first exit whose confidence reaches the threshold, which all of them share.
    """
    losses = np.zeros(len(GRID), int)
    for number, threshold in enumerate(GRID.tolist()):
        place = taken(confidence, threshold)
        lost = np.take_along_axis(worse, np.maximum(place, 0)[:, None], axis=1)[:, 0]
        losses[number] = ((place >= 0) & lost).sum()
    kept = p_value(losses, len(confidence), epsilon) > delta
    passed = int(kept.argmax()) if kept.any() else len(GRID)  # tests before the first that fails
    if not passed:
        return Control(None, len(confidence), int(losses[0]))
    return Control(float(GRID[passed - 1]), len(confidence), int(losses[passed - 1]))


def taken(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the number of the exit that each row takes, int [N]; -1 for none."""
    open_ = confidence >= threshold
    return np.where(open_.any(axis=1), open_.argmax(axis=1), -1)
