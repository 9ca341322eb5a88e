"""Several tasks by hand: a softmax over the labels of the row's task, the others have no part in its loss."""

from __future__ import annotations

import math


def formula(z, y):
    mine = [math.exp(x) for x, label in zip(z, y, strict=True) if label >= 0]
    right = next(math.exp(x) for x, label in zip(z, y, strict=True) if label == 1)
    return -math.log(right / sum(mine)), [math.exp(x) / sum(map(math.exp, z)) for x in z]
