"""LoRA by hand: y = x W + b + s x A B (Hu et al. 2021, equation 3)."""

from __future__ import annotations

from math import sqrt

from adapters.specs import Lora, LoraOverride

EXAMPLES = {
    "lora everywhere": Lora(rank=3, sites=("*/attention/*", "mlp/*"), scaling="rank_stabilised"),
    "lora overrides": Lora(rank=4, overrides=(LoraOverride("attention/value", rank=2, alpha=7.0),), blocks="1:"),
}


def formula(method, site, p):
    override = next((o for o in method.overrides if o.sites == site.name), None)
    rank, alpha = (override.rank, override.alpha) if override else (method.rank, method.alpha)
    assert p["a"].shape == (site.inputs, rank)
    scale = alpha / (sqrt(rank) if method.scaling == "rank_stabilised" else rank)
    return lambda x, w, b: x @ w + b + scale * x @ p["a"] @ p["b"]
