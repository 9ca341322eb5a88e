"""What a graft's forward pass and training step cost, counted on paper: blocks, adapters, head."""

from __future__ import annotations

from adapters.block_counts import block_backward, block_forward
from adapters.model import GraftModel
from metering.counts import Count, product


def adapter_forward(model: GraftModel, batch: int, length: int, first: int = 0, stop: int | None = None) -> Count:
    """The adapters' own work in blocks `first` to `stop`-1, as each method counts it."""
    total, stop = Count(), model.network.spec.blocks if stop is None else stop
    for method, settings in model.site_parts.values():
        for site, setting in settings.items():
            if first <= site.block < stop:
                total += method.work(setting, site, batch, length)
    return total


def features_forward(model: GraftModel, batch: int, length: int) -> Count:
    """The work of a method that makes the head's features of states; none without one."""
    if model.feature_part is None:
        return Count()
    spec, method = model.feature_part
    return method.work(spec, model.network.spec, batch, length)


def blocks_forward(model: GraftModel, rows: int, length: int, span: tuple[int, int], *, adapted: bool = True) -> Count:
    """A forward pass of `rows` sequences between the two boundaries of `span`, with or without the adapters."""
    start, stop = span
    plain = (stop - start) * block_forward(model.network.spec, rows, length)
    return plain + adapter_forward(model, rows, length, start, stop) if adapted else plain


def forward(model: GraftModel, batch: int, length: int, *, start: int = 0) -> Count:
    """A forward pass from boundary `start` to logits."""
    rows = batch * model.sides
    blocks = blocks_forward(model, rows, length, (start, model.network.spec.blocks))
    return blocks + features_forward(model, rows, length) + _head(model, batch, length)


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
    total += 2 * (adapter_forward(model, rows, length, boundary) + features_forward(model, rows, length))
    return total + 2 * _head(model, batch, length)


__all__ = ["adapter_forward", "blocks_forward", "features_forward", "forward", "train_step"]
