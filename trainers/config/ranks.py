"""Adaptive ranks: which ranks an adapter keeps under a budget of bytes. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass

from backbone.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """A budget of bytes over all sites of an adapter; its least important ranks are removed while it is trained.

    See `trainers.fitting.ranks`. The budget falls from the whole adapter to `max_bytes` between `start` and `end`
    of the run. The stored graft holds smaller arrays.
    """

    max_bytes: int = 0  # bytes of the adapter in the stored graft; 0 = every rank is kept
    start: float = 0.1  # share of the run before the first rank is removed
    end: float = 0.7  # share of the run after which no rank is removed
    every: int = 10  # optimiser steps from one removal to the next

    def __post_init__(self) -> None:
        if self.max_bytes < 0 or self.every < 1:
            raise InputError("max_bytes: must not be negative, and every must be at least 1")
        if not 0 <= self.start < self.end <= 1:
            raise InputError(f"end: must lie above start={self.start} and up to 1, got {self.end}")
