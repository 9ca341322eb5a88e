"""Measured errors on a device: of a graft's logits in every precision, and of attention in 16 bits.

Logits: random trunks of MiniLM's shape, as they are drawn and with kernels four times as large; LoRA, bottleneck and
probe with random leaves. The error is the largest difference from the same precision on the CPU of the same process,
relative to the largest logit (at least 1), which is what a canary's tolerance bounds. Attention: the values and the
gradients of `backbone.network.attention` here, against float64, relative to the largest entry.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.forward import logits_of
from adapters.model import GraftModel
from adapters.specs import Bottleneck, Classification, Lora, Probe
from backbone.network.attention import attention, has_cudnn
from backbone.network.encoder import Network
from backbone.precisions.precision import Precision, precision_named
from backbone.trees import map_leaves
from backbone.variants.registered import variants
from benchmarks.device.part import Part, described, problem
from benchmarks.device.shapes import MINILM, SMALL

METHODS = (Lora(rank=8), Bottleneck(width=16), Probe())
LABELS = tuple("abcdefgh")
ROWS, TOKENS, SEEDS = 16, 32, (0, 1)


def drawn(params: Any, seed: int, scale: float) -> Any:
    """Returns random leaves of the same shapes, of standard deviation `scale`."""
    draw = np.random.default_rng(seed)
    return map_leaves(lambda leaf: (scale * draw.normal(size=leaf.shape)).astype(np.float32), params)


def logits(model: GraftModel, trunk: Any, graft: Any, inputs: Any, device: Any, matmul: str | None) -> np.ndarray:
    """Returns the logits float64 [B,C] that a device computes."""
    with jax.default_device(device), jax.default_matmul_precision(matmul):
        placed = jax.device_put((trunk, graft, inputs), device)
        return np.asarray(logits_of(model, *placed), np.float64)


def of_logits(part: Part) -> None:
    """Measures the errors of logits by precision."""
    spec = SMALL if part.tiny else MINILM
    network, device, host = Network(spec), jax.devices()[0], jax.devices("cpu")[0]
    draw = np.random.default_rng(0)
    ids = draw.integers(1000, 20000, (ROWS, TOKENS)).astype(np.int32)
    mask = np.arange(TOKENS) < draw.integers(4, TOKENS + 1, (ROWS, 1))
    inputs, labels = {"ids": ids, "mask": mask}, Classification()
    errors: dict[str, list[dict[str, Any]]] = {}
    for method, seed, scale in itertools.product(METHODS, SEEDS, (1.0, 4.0)):
        weights = map_leaves(lambda x, scale=scale: np.asarray(x * scale if x.ndim > 1 else x), network.init(seed))
        model = GraftModel(network, (method,), labels, LABELS)
        graft = drawn(jax.eval_shape(lambda model=model: model.init(jax.random.key(0))), seed, 0.05)
        for tag, matmul in itertools.product(variants(Precision), (None, "highest")):
            trunk = precision_named(tag).prepare(weights)
            right = logits(model, trunk, graft, inputs, host, "highest")
            given = logits(model, trunk, graft, inputs, device, matmul)
            error = float(np.abs(given - right).max() / max(1.0, np.abs(right).max()))
            name = tag if matmul is None else f"{tag}, products in full float32"
            case = {"method": method.method, "seed": seed, "scale": scale, "error": error}
            errors.setdefault(name, []).append(case | {"largest_logit": float(np.abs(right).max())})
        largest = {name: max(case["error"] for case in cases) for name, cases in errors.items()}
        part.content |= {"tolerances": {tag: dict(precision_named(tag).tolerance) for tag in variants(Precision)}}
        part.content |= {"cases": errors}
        part.add(largest_errors=largest)


def exact_attention(q: Any, k: Any, v: Any, mask: Any, g: Any, heads: int) -> tuple[np.ndarray, ...]:
    """Computes attention and its three gradients for the cotangent g [B,T,D], in float64."""
    b, t, width = q.shape
    q, k, v, g = (np.asarray(x, np.float64).reshape(b, t, heads, -1).transpose(0, 2, 1, 3) for x in (q, k, v, g))
    scale = (width // heads) ** -0.5
    scores = np.where(mask[:, None, None, :], q @ k.swapaxes(2, 3) * scale, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    by_p = g @ v.swapaxes(2, 3)
    by_s = p * (by_p - (p * by_p).sum(-1, keepdims=True)) * scale
    results = (p @ v, by_s @ k, by_s.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ g)
    return tuple(x.transpose(0, 2, 1, 3).reshape(b, t, width) for x in results)


def of_attention(part: Part) -> None:
    """Measures the errors of attention, with padding, by dtype and length."""
    results: dict[str, Any] = {"fused": has_cudnn()}
    for tokens, dtype in itertools.product((32, 128) if part.tiny else (128, 512, 1024), ("bfloat16", "float32")):
        draw = np.random.default_rng(tokens)
        q, k, v, g = (jnp.asarray(draw.normal(size=(4, tokens, 128)), dtype) for _ in range(4))
        mask = np.arange(tokens) < np.array([tokens, tokens - 3, tokens // 2, 1])[:, None]

        def both(q: Any, k: Any, v: Any, g: Any = g, mask: Any = mask) -> Any:
            value, back = jax.vjp(lambda q, k, v: attention(q, k, v, mask, heads=2), q, k, v)
            return (value, *back(g))

        try:
            given = jax.jit(both)(q, k, v)
        except Exception as error:  # noqa: BLE001  # a kernel that does not take this shape says so in its own way
            results[f"{dtype} {tokens}"] = problem(error)
            continue
        right = exact_attention(q, k, v, mask, g, 2)
        names = ("value", "q gradient", "k gradient", "v gradient")
        results[f"{dtype} {tokens}"] = {
            name: float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())
            for name, a, b in zip(names, given, right, strict=True)
        }
    part.add(attention=results)


def main() -> None:
    part = Part("errors", __doc__.split("\n")[0])
    part.add(device=described())
    of_attention(part)
    of_logits(part)


if __name__ == "__main__":
    main()
