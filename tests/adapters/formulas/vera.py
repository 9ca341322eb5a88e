"""VeRA by hand: y = x W + b + ((x A) d) B b (Kopiczko et al. 2023, equation 2)."""

from __future__ import annotations

from adapters.methods.vera import draw_projections
from adapters.specs import Vera
from tests.tiny import SPEC

EXAMPLES = {"vera of two widths": Vera(rank=8, sites=("attention/key", "mlp/*"), seed=7, blocks=":1")}


def formula(method, site, p):
    widest = SPEC.mlp_width if "mlp/*" in method.sites else SPEC.width
    a, b = draw_projections(method.rank, widest, widest, method.seed)
    a, b = a[: site.inputs], b[:, : site.outputs]
    return lambda x, w, bias: x @ w + bias + ((x @ a) * p["d"]) @ b * p["b"]
