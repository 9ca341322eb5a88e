"""The cost of one block of a backbone, counted on paper from its architecture.

A block has width D, keys of width K and MLP width M, and runs B rows of T tokens. Its dense products take
2 B T (2 D^2 + 2 D K + 2 D M) FLOPs, with 3 D M for a gated MLP. A kernel [I,O] of rank R takes R (I + O) in place of
I O. Sharing weights changes no count: every block multiplies. Attention's two products take 4 B T^2 D. Local attention
is computed in full and masked. The gradient of activations costs a dense product once more, and attention twice more.
The gradient of a full weight costs as much as the forward product. Norms, activations and softmax are counted as a few
operations per element.
"""

from __future__ import annotations

from typing import NamedTuple

from backbone.spec import EncoderSpec
from metering.counts import Count, elementwise, product

NORM, ACTIVATION, SOFTMAX = 8, 12, 6  # operations per element, about


class Parts(NamedTuple):
    """The heads and mlp units of a block."""

    heads: int  # attention heads
    units: int  # hidden units of the mlp


def _kernel(tokens: int, inputs: int, outputs: int, rank: int) -> Count:
    if not rank:
        return product(tokens, inputs, outputs)
    return product(tokens, inputs, rank) + product(tokens, rank, outputs)


def _dense(spec: EncoderSpec, tokens: int, parts: Parts) -> Count:
    d, m = spec.width, parts.units
    inner, up = parts.heads * (spec.width // spec.heads), 2 * m if spec.mlp == "gated" else m
    attention = product(tokens, d, inner + 2 * (inner * spec.kv_width // d)) + product(tokens, inner, d)
    return attention + _kernel(tokens, d, up, spec.mlp_rank) + _kernel(tokens, m, d, spec.mlp_rank)


def _attention(spec: EncoderSpec, batch: int, length: int, parts: Parts) -> Count:
    head = spec.width // spec.heads
    return 2 * product(length, head, length, batch=batch * parts.heads)


def _rest(spec: EncoderSpec, batch: int, length: int, parts: Parts) -> Count:
    tokens = batch * length
    return (
        2 * elementwise(tokens * spec.width, NORM)
        + elementwise(tokens * parts.units, ACTIVATION)
        + elementwise(batch * parts.heads * length * length, SOFTMAX)
    )


def block_forward(spec: EncoderSpec, batch: int, length: int, parts: Parts | None = None) -> Count:
    """Returns the work of one plain block on `batch` rows of `length` tokens; of a pruned one, with `parts`."""
    parts = parts or Parts(spec.heads, spec.mlp_width)
    return (
        _dense(spec, batch * length, parts) + _attention(spec, batch, length, parts) + _rest(spec, batch, length, parts)
    )


def embedding_forward(spec: EncoderSpec, batch: int, length: int) -> Count:
    """Returns the work of projecting embeddings that are narrower than the blocks; none where they are not."""
    if not spec.embedding_width:
        return Count()
    return product(batch * length, spec.embedding_width, spec.width)


def block_backward(spec: EncoderSpec, batch: int, length: int, *, weights: bool = False, lowest: bool = False) -> Count:
    """Returns the work of gradients through one block: of activations, and with `weights` of every kernel.

    With `lowest` nothing below is live, so query, key and value need no gradient of their input.
    """
    tokens, parts = batch * length, Parts(spec.heads, spec.mlp_width)
    count = _dense(spec, tokens, parts) + 2 * _attention(spec, batch, length, parts) + _rest(spec, batch, length, parts)
    if weights:
        count += _dense(spec, tokens, parts)
    if lowest and not weights:
        count += -1 * product(tokens, spec.width, spec.width + 2 * spec.kv_width)
    return count


__all__ = ["Parts", "block_backward", "block_forward", "embedding_forward"]
