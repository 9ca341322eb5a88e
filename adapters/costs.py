"""The costs of a graft's forward pass and training step, counted on paper: blocks, adapters, head."""

from __future__ import annotations

from adapters.block_counts import Parts, block_backward, block_forward, embedding_forward
from adapters.model import GraftModel
from backbone.network.dropping import tokens_at
from metering.counts import Count, product


def adapter_forward(model: GraftModel, batch: int, length: int, first: int = 0, stop: int | None = None) -> Count:
    """Returns the work of the adapters in blocks `first` to `stop`-1, as each method counts it."""
    total, stop = Count(), model.network.spec.blocks if stop is None else stop
    for method, settings in model.site_parts.values():
        for site, setting in settings.items():
            if first <= site.block < stop:
                total += method.cost(setting, site, batch, tokens_at(model.drops, length, site.block))
    return total


def features_forward(model: GraftModel, batch: int, length: int) -> Count:
    """Returns the work of the method that makes the head's features of hidden states; none without such a method."""
    if model.feature_method is None:
        return Count()
    return model.feature_method.cost(model.network.spec, batch, length)


def blocks_forward(model: GraftModel, rows: int, length: int, span: tuple[int, int], *, adapted: bool = True) -> Count:
    """Returns the work of `rows` sequences between the two boundaries of `span`, with or without the adapters."""
    start, stop = span
    pruned = {part.block: Parts(part.heads, part.units) for part in model.suffix}
    blocks = (
        block_forward(model.network.spec, rows, tokens_at(model.drops, length, block), pruned.get(block))
        for block in range(start, stop)
    )
    plain = sum(blocks, Count())
    return plain + adapter_forward(model, rows, length, start, stop) if adapted else plain


def forward(model: GraftModel, batch: int, length: int, *, start: int = 0) -> Count:
    """Returns the work of a forward pass from boundary `start` to logits."""
    rows = batch * model.sides
    blocks = blocks_forward(model, rows, length, (start, model.network.spec.blocks))
    if start == 0:
        blocks += embedding_forward(model.network.spec, rows, length)
    return blocks + features_forward(model, rows, length) + _head(model, batch, length)


def _head(model: GraftModel, batch: int, length: int) -> Count:
    """Returns the work of the head's product, which is computed at every token for tagging."""
    vectors = batch * length if model.head.pooling == "tokens" else batch
    return product(vectors, model.feature_width, len(model.labels))


def train_step(
    model: GraftModel, batch: int, length: int, *, boundary: int, cached: bool, everything: bool = False
) -> Count:
    """Returns the work of one step with the blocks from `boundary` on live, and those below cached or run.

    Gradients go back to the lowest live block that is adapted; a feature method needs none of the backbone.
    `everything` counts full tuning: every block is live, with gradients of its weights.
    """
    spec, rows = model.network.spec, batch * model.sides
    first = boundary if everything else max(boundary, min(model.adapted_blocks, default=spec.blocks))
    total = forward(model, batch, length, start=boundary if cached else 0)
    for block in range(first, spec.blocks):
        total += block_backward(spec, rows, length, weights=everything, lowest=block == first)
    total += 2 * (adapter_forward(model, rows, length, boundary) + features_forward(model, rows, length))
    return total + 2 * _head(model, batch, length)


__all__ = ["adapter_forward", "blocks_forward", "features_forward", "forward", "train_step"]
