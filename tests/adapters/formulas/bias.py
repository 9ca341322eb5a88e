"""Bias tuning by hand: b + delta in dense layers and norms (Ben Zaken et al. 2021, section 3)."""

from __future__ import annotations


def formula(method, site, p):
    if site.name.endswith("norm"):
        return lambda s, b: (s, b + p["delta"])
    return lambda x, w, b: x @ w + (b + p["delta"])
