"""How far a graft is pruned: settings of `trainers.prune`, and options of the verb. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass

from backbone.console.options import check, option, required
from backbone.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What is pruned, and how far; the options of the verb."""

    above: int = required("boundary above which blocks are pruned; those below stay the trunk's")
    flops: float = option(0.0, "share of these blocks' operations that may be left", min=0, max=1)
    bytes: int = option(0, "bytes that these blocks may take in the stored graft", min=0)
    rows: int = option(1024, "labelled rows by which heads and units are judged", min=32)

    def __post_init__(self) -> None:
        check(self)
        if bool(self.flops) == bool(self.bytes):
            raise InputError("--flops: give one of --flops and --bytes, how much of the blocks may be left")
