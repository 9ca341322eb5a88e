"""Bottleneck adapters by hand: f(h) = act(h D + d) U + u after a sublayer, or beside it."""

from __future__ import annotations

import numpy as np

from adapters.specs import Bottleneck
from tests import reference

MERGEABLE = False
EXAMPLES = {
    "houlsby": Bottleneck(width=5, placement="houlsby"),
    "pfeiffer": Bottleneck(width=5, placement="pfeiffer", activation="gelu"),
    "parallel": Bottleneck(width=5, placement="parallel", scale=4.0),
}


def formula(method, site, p):
    act = {"relu": lambda v: np.maximum(v, 0), "gelu": reference.gelu}[method.activation]

    def f(h):
        return act(h @ p["down"] + p["down_bias"]) @ p["up"] + p["up_bias"]

    return (lambda x, y: y + method.scale * f(x)) if method.placement == "parallel" else (lambda x, y: y + f(y))
