"""SSF by hand: y g + s after dense layers and norms (Lian et al. 2022, equation 3)."""

from __future__ import annotations


def formula(method, site, p):
    if site.name.endswith("norm"):
        return lambda s, b: (s * p["scale"], b * p["scale"] + p["shift"])
    return lambda x, w, b: (x @ w + b) * p["scale"] + p["shift"]
