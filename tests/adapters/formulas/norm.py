"""Norm tuning by hand: another scale and bias of each norm (Zhao et al. 2023, section 2)."""

from __future__ import annotations

from adapters.specs import Norm

EXAMPLES = {"norm of some": Norm(sites=("0/attention/norm", "2/mlp/norm"))}


def formula(method, site, p):
    return lambda s, b: (s + p["scale"], b + p["bias"])
