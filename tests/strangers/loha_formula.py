"""LoHa by hand: y = x (W + s (A1 B1) * (A2 B2)) + b (Hyeon-Woo et al. 2022, section 2.2)."""

from __future__ import annotations

from adapters.methods.loha import Loha

EXAMPLES = {"loha in the mlp": Loha(rank=3, alpha=5.0, sites=("mlp/*",), blocks="1:")}


def formula(method, site, p):
    update = (p["a1"] @ p["b1"]) * (p["a2"] @ p["b2"])
    return lambda x, w, b: x @ (w + method.alpha / method.rank * update) + b
