"""What a graft's forward pass and training step cost, counted on paper from its architecture.

One block of width D and MLP width M on B rows of T tokens: 2 B T (4 D^2 + 2 D M) FLOPs in dense
products (3 D M with a gated MLP) and 4 B T^2 D in attention's two; local attention is computed in full and
masked. The gradient of activations costs a dense product as much
again and attention twice as much; the gradient of a full weight as much as the forward product. Norms,
activations and softmax are counted as a few operations per element.
"""

from __future__ import annotations

from adapters.model import GraftModel
from backbone.spec import EncoderSpec
from metering.counts import Count, elementwise, product

NORM, ACTIVATION, SOFTMAX = 8, 12, 6  # operations per element, about


def _dense(spec: EncoderSpec, tokens: int) -> Count:
    d, m = spec.width, spec.mlp_width
    up = 2 * m if spec.mlp == "gated" else m
    return product(tokens, d, 3 * d) + product(tokens, d, d) + product(tokens, d, up) + product(tokens, m, d)


def _attention(spec: EncoderSpec, batch: int, length: int) -> Count:
    head = spec.width // spec.heads
    return 2 * product(length, head, length, batch=batch * spec.heads)


def _rest(spec: EncoderSpec, batch: int, length: int) -> Count:
    tokens = batch * length
    return (
        2 * elementwise(tokens * spec.width, NORM)
        + elementwise(tokens * spec.mlp_width, ACTIVATION)
        + elementwise(batch * spec.heads * length * length, SOFTMAX)
    )


def block_forward(spec: EncoderSpec, batch: int, length: int) -> Count:
    """One plain block on `batch` rows of `length` tokens."""
    return _dense(spec, batch * length) + _attention(spec, batch, length) + _rest(spec, batch, length)


def block_backward(spec: EncoderSpec, batch: int, length: int, *, weights: bool = False, lowest: bool = False) -> Count:
    """Gradients through one block: of activations, and with `weights` of every kernel.

    `lowest`: nothing below is live, so query, key and value need no gradient of their input.
    """
    tokens = batch * length
    count = _dense(spec, tokens) + 2 * _attention(spec, batch, length) + _rest(spec, batch, length)
    if weights:
        count += _dense(spec, tokens)
    if lowest and not weights:
        count += -1 * product(tokens, spec.width, 3 * spec.width)
    return count


def adapter_forward(model: GraftModel, batch: int, length: int, first: int = 0, stop: int | None = None) -> Count:
    """The adapters' own work in blocks `first` to `stop`-1, as each method counts it; a ladder's is not counted."""
    total, stop = Count(), model.network.spec.blocks if stop is None else stop
    for method, settings in model.site_parts.values():
        for site, setting in settings.items():
            if first <= site.block < stop:
                total += method.work(setting, site, batch, length)
    return total


def blocks_forward(model: GraftModel, rows: int, length: int, span: tuple[int, int], *, adapted: bool = True) -> Count:
    """A forward pass of `rows` sequences between the two boundaries of `span`, with or without the adapters."""
    start, stop = span
    plain = (stop - start) * block_forward(model.network.spec, rows, length)
    return plain + adapter_forward(model, rows, length, start, stop) if adapted else plain


def forward(model: GraftModel, batch: int, length: int, *, start: int = 0) -> Count:
    """A forward pass from boundary `start` to logits."""
    blocks = blocks_forward(model, batch * model.sides, length, (start, model.network.spec.blocks))
    return blocks + _head(model, batch, length)


def _head(model: GraftModel, batch: int, length: int) -> Count:
    """The head's product, at every token for tagging."""
    vectors = batch * length if model.head.pooling == "tokens" else batch
    return product(vectors, model.feature_width, len(model.labels))


def train_step(
    model: GraftModel, batch: int, length: int, *, boundary: int, cached: bool, everything: bool = False
) -> Count:
    """One step with blocks from `boundary` on live, their prefix cached or run forward; `everything`: full tuning.

    Gradients go back to the lowest live block that is adapted; a probe or ladder has none.
    """
    spec, rows = model.network.spec, batch * model.sides
    first = boundary if everything else max(boundary, min(model.adapted_blocks, default=spec.blocks))
    total = forward(model, batch, length, start=boundary if cached else 0)
    for block in range(first, spec.blocks):
        total += block_backward(spec, rows, length, weights=everything, lowest=block == first)
    total += 2 * adapter_forward(model, rows, length, boundary)
    return total + 2 * _head(model, batch, length)


__all__ = ["adapter_forward", "block_backward", "block_forward", "blocks_forward", "forward", "train_step"]
