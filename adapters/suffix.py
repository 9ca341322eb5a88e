"""Blocks whose kernels belong to a graft: a pruned suffix, with fewer heads and mlp units. Imports no jax.

The tensors of such a graft hold `suffix.BLOCK....` beside adapter and head, in the layout of the trunk's blocks. The
blocks below stay the trunk's, and every graft shares them. Shape letters: `D` width, `H` heads of width `d`, `U` units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backbone.errors import InputError
from backbone.lazy import jax
from backbone.spec import EncoderSpec
from backbone.trees import Params

SUFFIX = "suffix"  # name of the tensors beside adapter and head


@dataclass(frozen=True)
class SuffixBlock:
    """One block of a graft's own."""

    block: int  # number of the block
    heads: int  # attention heads that are left
    units: int  # hidden units of the mlp that are left

    def __post_init__(self) -> None:
        if self.block < 0 or self.heads < 1 or self.units < 1:
            raise InputError(f"suffix: a block has at least one head and one unit, got {self}")


def require_suffix(suffix: tuple[SuffixBlock, ...], spec: EncoderSpec) -> None:
    """Raises InputError unless the blocks follow one another and fit the trunk."""
    numbers = [part.block for part in suffix]
    if numbers and (numbers != list(range(numbers[0], numbers[-1] + 1)) or numbers[-1] >= spec.blocks):
        raise InputError(f"suffix: blocks must follow one another below {spec.blocks}, got {numbers}")
    if numbers:
        require_whole_blocks(spec, "suffix")
    if large := [part for part in suffix if part.heads > spec.heads or part.units > spec.mlp_width]:
        raise InputError(f"suffix: {large[0]} is larger than the trunk's {spec.heads} heads and {spec.mlp_width} units")


def require_whole_blocks(spec: EncoderSpec, where: str) -> None:
    """Raises InputError for a trunk whose blocks share what a pruned block would have to lose alone."""
    shared = ((spec.shares_weights, "groups"), (spec.kv_width < spec.width, "kv_heads"), (spec.mlp_rank, "mlp_rank"))
    if names := [name for is_set, name in shared if is_set]:
        raise InputError(
            f"{where}: the blocks of this trunk are compact already ({', '.join(names)}); only those of a plain trunk "
            "are pruned"
        )


def shapes_of(part: SuffixBlock, spec: EncoderSpec, block: Params) -> Params:
    """Returns the leaves of a block as zeros; `block` holds the trunk's shapes."""
    inner, gates = part.heads * (spec.width // spec.heads), 2 if spec.mlp == "gated" else 1
    sizes: dict[tuple[str, ...], tuple[int, ...]] = {
        ("attention", "qkv", "kernel"): (spec.width, 3 * inner),
        ("attention", "qkv", "bias"): (3 * inner,),
        ("attention", "output", "kernel"): (inner, spec.width),
        ("mlp", "up", "kernel"): (spec.width, gates * part.units),
        ("mlp", "up", "bias"): (gates * part.units,),
        ("mlp", "down", "kernel"): (part.units, spec.width),
    }

    def zeros(node: Params, path: tuple[str, ...]) -> Params:
        return {
            name: zeros(value, (*path, name))
            if isinstance(value, dict)
            else jax.numpy.zeros(sizes.get((*path, name), value.shape), "float32")
            for name, value in node.items()
        }

    return zeros(block, ())


def with_suffix(backbone: Params, params: Params, slots: Any | None = None) -> Params:
    """Returns the trunk's parameters with a graft's blocks in the place of its own; without any, as they are.

    In a bank the leaves have a slot axis, and its one graft is in slot 1.
    """
    if not (suffix := params.get(SUFFIX)):
        return backbone
    blocks = suffix if slots is None else jax.tree.map(lambda leaf: leaf[1], suffix)
    return {**backbone, "blocks": {**backbone.get("blocks", {}), **blocks}}
