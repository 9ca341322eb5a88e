"""How a retraining is asked for, and what it answers: plain data. Imports no jax."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from backbone.errors import InputError

Step = Literal["fingerprint", "diagnose", "decide", "train", "gate", "publish", "promote", "done"]

EXIT_STATUS = {"PASS": 0, "FAIL": 10, "NO_EVIDENCE": 11}
REFUSED = 12
OnStep = Callable[[Step], object]


@dataclass(frozen=True)
class Options:
    """How a run goes; nothing here changes what it would train."""

    dry_run: bool = False  # decide and price only
    max_price: float | None = None  # CPU seconds above which a run is refused; None = no limit
    promote: bool = True  # switch the live version if the gate passes
    lease_seconds: float = 120.0  # after a run's last sign of life until another may take over
    wait_seconds: float = 0.0  # for the lease of another run
    show: bool = False  # progress bars

    def __post_init__(self) -> None:
        if not 0 < self.lease_seconds < math.inf:
            raise InputError(f"--lease: must be a positive number of seconds, got {self.lease_seconds}")
        for option, value in (("--wait", self.wait_seconds), ("--max-price", self.max_price or 0.0)):
            if not 0 <= value < math.inf:
                raise InputError(f"{option}: must be at least 0, got {value}")


@dataclass(frozen=True)
class Outcome:
    """What a run did; `--json` prints it."""

    task: str
    action: str  # nothing, head, warm, scratch, adopt (a version that an earlier run published), refused, error
    exit: int  # status of the command
    reason: str
    verdict: str = ""  # of the gate: PASS, FAIL, NO_EVIDENCE; "" where it was not asked
    version: int | None = None  # the candidate
    promoted: bool = False
    live: int | None = None  # version that is live now
    generation: int = 0  # of the live pointer
    changes: dict[str, Any] = field(default_factory=dict)  # what is different, and drift
    predicted: dict[str, Any] = field(default_factory=dict)  # cost
    measured: dict[str, Any] = field(default_factory=dict)  # cost
    rows_computed: int = 0  # forward passes of a row that no cache had
    gate: dict[str, Any] = field(default_factory=dict)  # the report
    run_id: str = ""  # in the registry
    seconds: float = 0.0  # wall time of the run

    @property
    def exit_status(self) -> int:
        return self.exit
