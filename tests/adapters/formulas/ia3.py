"""IA3 by hand: scaled outputs, or scaled inputs (Liu et al. 2022, section 3.3)."""

from __future__ import annotations

from adapters.specs import IA3

EXAMPLES = {
    "ia3 attention": IA3(scale_outputs=("attention/query",), scale_inputs=("attention/output", "attention/value")),
}


def formula(method, site, p):
    if site.name in method.scale_outputs:
        return lambda x, w, b: (x @ w + b) * p["scale"]
    return lambda x, w, b: (x * p["scale"]) @ w + b
