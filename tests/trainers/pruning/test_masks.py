"""The search for masks, against every mask there is, and exchanges within a layer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backbone.errors import InputError
from trainers.pruning.masks import Limit, search

BLOCKS, HEADS, UNITS = 2, 2, 3


def alone(importance: np.ndarray) -> np.ndarray:
    """Gradients of rows each of which needs one place only, so that the Fisher matrix is diagonal."""
    flat = importance.reshape(-1)
    return (np.sqrt(len(flat) * flat)[:, None] * np.eye(len(flat))).reshape(-1, *importance.shape)


def masks_of(count: int) -> list[np.ndarray]:
    flat = itertools.product([False, True], repeat=BLOCKS * count)
    every = [np.array(mask).reshape(BLOCKS, count) for mask in flat]
    return [mask for mask in every if mask.any(axis=1).all()]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("total", [8.0, 11.0, 17.0, 100.0])
def test_the_masks_lose_least_of_all_that_fit(seed, total):
    draw = np.random.default_rng(seed)
    heads, units = draw.uniform(size=(BLOCKS, HEADS)), draw.uniform(size=(BLOCKS, UNITS))
    limit = Limit("flops", total, head=2.5, unit=1.0, fixed=0.5)
    rows = max(heads.size, units.size)
    gradients = [np.concatenate([g, np.zeros((rows - len(g), *g.shape[1:]))]) for g in (alone(heads), alone(units))]
    gradients[0] *= np.sqrt(rows / heads.size)  # importance is a mean over rows
    result = search(*gradients, limit)

    def lost(kept_heads, kept_units) -> float:
        return heads[~kept_heads].sum() + units[~kept_units].sum()

    fitting = [lost(h, u) for h in masks_of(HEADS) for u in masks_of(UNITS) if 0.5 + 2.5 * h.sum() + u.sum() <= total]
    assert lost(result.heads, result.units) == pytest.approx(min(fitting))
    assert 0.5 + 2.5 * result.heads.sum() + result.units.sum() <= total
    assert result.heads.any(axis=1).all()
    assert result.units.any(axis=1).all()


def test_of_two_units_that_do_the_same_only_one_goes():
    """Each alone is worth least, but not both: the Fisher block of the layer says so."""
    shared, other = np.array([1.0, -1.0, 1.0, -1.0]), np.array([1.2, 1.2, -1.2, -1.2])
    far = np.array([9.0, -9.0, -9.0, 9.0])
    units = np.stack([shared, shared, other, far], axis=1)[:, None]
    result = search(np.ones((4, 1, 1)), units, Limit("flops", 3.0, head=1.0, unit=1.0))
    assert result.units.sum() == 2
    assert result.units[0, 3]
    assert result.units[0, :2].sum() == 1, "by the diagonal alone both would go: 1 + 1 < 1 + 1.44"


def test_a_constraint_that_no_mask_meets_is_refused():
    heads, units = np.ones((3, BLOCKS, HEADS)), np.ones((3, BLOCKS, UNITS))
    message = (
        r"^--bytes: no mask meets it: one head and one unit in each of 2 blocks take 7, allowed are 6.9; allow more"
    )
    with pytest.raises(InputError, match=message):
        search(heads, units, Limit("bytes", 6.9, head=2.0, unit=1.0, fixed=1.0))
    assert search(heads, units, Limit("bytes", 7.0, head=2.0, unit=1.0, fixed=1.0)).heads.sum() == BLOCKS
