"""The cost of one block of a backbone, counted on paper from its architecture.

A block has width D, keys of width K and MLP width M, and runs B rows of T tokens. Its dense products take
2 B T (2 D^2 + 2 D K + 2 D M) FLOPs, with 3 D M for a gated MLP. A kernel [I,O] of rank R takes R (I + O) in place of
I O. Sharing weights changes no count: every block multiplies. Attention's two products take 4 B T^2 D. Local attention
is computed in full and masked. The gradient of activations costs a dense product once more, and attention twice more.
The gradient of a full weight costs as much as the forward product. Norms, activations and softmax are counted as a few
operations per element.
"""

from __future__ import annotations

from backbone.spec import EncoderSpec
from metering.counts import Count, elementwise, product

NORM, ACTIVATION, SOFTMAX = 8, 12, 6  # operations per element, about


def _dense(spec: EncoderSpec, tokens: int) -> Count:
    d, m = spec.width, spec.mlp_width
    up = 2 * m if spec.mlp == "gated" else m
    attention = product(tokens, d, d + 2 * spec.kv_width) + product(tokens, d, d)
    return attention + _kernel(tokens, d, up, spec.mlp_rank) + _kernel(tokens, m, d, spec.mlp_rank)


def _kernel(tokens: int, inputs: int, outputs: int, rank: int) -> Count:
    if not rank:
        return product(tokens, inputs, outputs)
    return product(tokens, inputs, rank) + product(tokens, rank, outputs)


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
    """Returns the work of one plain block on `batch` rows of `length` tokens."""
    return _dense(spec, batch * length) + _attention(spec, batch, length) + _rest(spec, batch, length)


def embedding_forward(spec: EncoderSpec, batch: int, length: int) -> Count:
    """Returns the work of projecting embeddings that are narrower than the blocks; none where they are not."""
    if not spec.embedding_width:
        return Count()
    return product(batch * length, spec.embedding_width, spec.width)


def block_backward(spec: EncoderSpec, batch: int, length: int, *, weights: bool = False, lowest: bool = False) -> Count:
    """Returns the work of gradients through one block: of activations, and with `weights` of every kernel.

    With `lowest` nothing below is live, so query, key and value need no gradient of their input.
    """
    tokens = batch * length
    count = _dense(spec, tokens) + 2 * _attention(spec, batch, length) + _rest(spec, batch, length)
    if weights:
        count += _dense(spec, tokens)
    if lowest and not weights:
        count += -1 * product(tokens, spec.width, spec.width + 2 * spec.kv_width)
    return count


__all__ = ["block_backward", "block_forward", "embedding_forward"]
