"""The router by hand: the best experts, weighted by the gate's softmax (Fedus et al. 2021, equations 1 and 2)."""

from __future__ import annotations

import numpy as np

from adapters.specs import Router
from tests import reference

MERGEABLE = False
EXAMPLES = {
    "router to one": Router(experts=2, top=1, rank=2, sites=("attention/output", "mlp/up"), blocks="2:"),
}


def formula(method, site, p):
    def routed(x, w, b):
        chance = reference.softmax(x[0] @ p["gate"])
        best = np.argsort(-chance)[: method.top]
        experts = [chance[e] * x @ p["a"][e] @ p["b"][e] for e in best]
        return x @ w + b + method.alpha / method.rank * sum(experts)

    return routed
