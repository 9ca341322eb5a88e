"""An independent BERT in numpy, written from the paper, one row and no padding at a time.

It knows the lean parts too: shared blocks, narrow embeddings, shared keys, kernels of low rank, RMS norms.
"""

from __future__ import annotations

from math import erf, sqrt

import numpy as np


def norm(x, scale, bias, epsilon, function="layer"):
    mean = x.mean(-1, keepdims=True) if function == "layer" else 0
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon) * scale + bias


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(erf)(x / sqrt(2)))


def kernel(p):
    return np.asarray(p["low"]["kernel"] @ p["kernel"] if "low" in p else p["kernel"])


def block(p, x, spec, sites=None):
    """One block on [T,D]; `sites` maps a linear site to a function (x, W, b) -> y, a sublayer to (x, y) -> y,
    "attend" to (k, v) -> (k, v), a norm to (scale, bias) -> (scale, bias)."""
    sites = sites or {}
    patched = {
        part: sites.get(f"{part}/norm", lambda s, b: (s, b))(p[part]["norm"]["scale"], p[part]["norm"]["bias"])
        for part in ("attention", "mlp")
    }
    d, dh = spec.width, spec.width // spec.heads
    shared = spec.heads // (spec.kv_heads or spec.heads)
    wide = {"query": (0, d), "key": (d, d + d // shared), "value": (d + d // shared, d + 2 * d // shared)}
    act = {"gelu": gelu, "squared_relu": lambda x: np.maximum(x, 0) ** 2}[spec.activation]

    def linear(name, x, w, b):
        return sites[name](x, w, b) if name in sites else x @ w + b

    w, b = p["attention"]["qkv"]["kernel"], p["attention"]["qkv"]["bias"]
    q, k, v = (linear(f"attention/{name}", x, w[:, first:last], b[first:last]) for name, (first, last) in wide.items())
    k, v = sites["attend"](k, v) if "attend" in sites else (k, v)
    heads = []
    for h in range(spec.heads):
        s = slice(h * dh, (h + 1) * dh)
        of = slice(h // shared * dh, (h // shared + 1) * dh)
        heads.append(softmax(q[:, s] @ k[:, of].T / sqrt(dh)) @ v[:, of])
    y = linear(
        "attention/output",
        np.concatenate(heads, -1),
        p["attention"]["output"]["kernel"],
        p["attention"]["output"]["bias"],
    )
    y = sites["attention"](x, y) if "attention" in sites else y
    a = norm(x + y, *patched["attention"], spec.norm_epsilon, spec.norm_function)
    u = act(linear("mlp/up", a, kernel(p["mlp"]["up"]), p["mlp"]["up"]["bias"]))
    y = linear("mlp/down", u, kernel(p["mlp"]["down"]), p["mlp"]["down"]["bias"])
    y = sites["mlp"](a, y) if "mlp" in sites else y
    return norm(a + y, *patched["mlp"], spec.norm_epsilon, spec.norm_function)


def embed(p, ids, spec):
    e = p["embeddings"]
    x = e["token"][ids] + e["position"][: len(ids)] + e["segment"][0]
    x = norm(x, e["norm"]["scale"], e["norm"]["bias"], spec.norm_epsilon, spec.norm_function)
    return x @ e["projection"]["kernel"] + e["projection"]["bias"] if spec.embedding_width else x


def states(p, ids, spec, sites=None):
    """Hidden states [T,D] at every boundary; `sites` maps block number to sites."""
    x = embed(p, ids, spec)
    found = [x]
    for i in range(spec.blocks):
        number = i // (spec.blocks // spec.groups) if spec.groups else i
        x = block(p["blocks"][str(number)], x, spec, (sites or {}).get(i))
        found.append(x)
    return found
