"""DoRA by hand: W' = m (W + s A B) / ||W + s A B||, column by column (Liu et al. 2024, equation 5)."""

from __future__ import annotations

from math import sqrt

import numpy as np

from adapters.specs import Dora

EXAMPLES = {
    "dora everywhere": Dora(rank=2, sites=("attention/*", "mlp/*"), scaling="rank_stabilised", blocks="2:"),
}


def formula(method, site, p):
    s = method.alpha / (sqrt(method.rank) if method.scaling == "rank_stabilised" else method.rank)

    def length(matrix):
        return np.sqrt((matrix**2).sum(0))

    def dora(x, w, b):
        v = w + s * p["a"] @ p["b"]
        return x @ (p["magnitude"] * length(w) * v / length(v)) + b

    return dora
