"""An independent BERT in numpy, written from the paper, one row and no padding at a time."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np


def norm(x, scale, bias, epsilon):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon) * scale + bias


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(erf)(x / sqrt(2)))


def block(p, x, spec, sites=None):
    """One block on [T,D]; `sites` maps a linear site to a function (x, W, b) -> y, a sublayer to (x, y) -> y,
    "attend" to (k, v) -> (k, v), a norm to (scale, bias) -> (scale, bias)."""
    sites = sites or {}
    patched = {
        part: sites.get(f"{part}/norm", lambda s, b: (s, b))(p[part]["norm"]["scale"], p[part]["norm"]["bias"])
        for part in ("attention", "mlp")
    }
    d, dh = spec.width, spec.width // spec.heads

    def linear(name, x, w, b):
        return sites[name](x, w, b) if name in sites else x @ w + b

    w, b = p["attention"]["qkv"]["kernel"], p["attention"]["qkv"]["bias"]
    q, k, v = (
        linear(f"attention/{n}", x, w[:, i * d : (i + 1) * d], b[i * d : (i + 1) * d])
        for i, n in enumerate(("query", "key", "value"))
    )
    k, v = sites["attend"](k, v) if "attend" in sites else (k, v)
    heads = []
    for h in range(spec.heads):
        s = slice(h * dh, (h + 1) * dh)
        heads.append(softmax(q[:, s] @ k[:, s].T / sqrt(dh)) @ v[:, s])
    y = linear(
        "attention/output",
        np.concatenate(heads, -1),
        p["attention"]["output"]["kernel"],
        p["attention"]["output"]["bias"],
    )
    y = sites["attention"](x, y) if "attention" in sites else y
    a = norm(x + y, *patched["attention"], spec.norm_epsilon)
    u = gelu(linear("mlp/up", a, p["mlp"]["up"]["kernel"], p["mlp"]["up"]["bias"]))
    y = linear("mlp/down", u, p["mlp"]["down"]["kernel"], p["mlp"]["down"]["bias"])
    y = sites["mlp"](a, y) if "mlp" in sites else y
    return norm(a + y, *patched["mlp"], spec.norm_epsilon)


def embed(p, ids, spec):
    e = p["embeddings"]
    x = e["token"][ids] + e["position"][: len(ids)] + e["segment"][0]
    return norm(x, e["norm"]["scale"], e["norm"]["bias"], spec.norm_epsilon)


def states(p, ids, spec, sites=None):
    """Hidden states [T,D] at every boundary; `sites` maps block number to sites."""
    x = embed(p, ids, spec)
    found = [x]
    for i in range(spec.blocks):
        x = block(p["blocks"][str(i)], x, spec, (sites or {}).get(i))
        found.append(x)
    return found
