"""A retraining as data: the job that a process gets, and the outcome that it returns. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from backbone.console.options import check, option
from metering.cost import CostRecord
from registry.budgets.place import UnderBudgets
from registry.place import Place
from trainers.config.load import Scripted
from trainers.retrain.lineage import ChangeReport, GateReport, NotReached, PriceEstimate

Step = Literal["fingerprint", "diagnose", "decide", "check", "train", "gate", "publish", "promote", "done"]

EXIT_STATUS = {"PASS": 0, "FAIL": 10, "NO_EVIDENCE": 11}
REFUSED = 12
NOT_REACHED = NotReached()
OnStep = Callable[[Step], object]


@dataclass(frozen=True)
class Options(UnderBudgets):
    """The manner of a run; no field changes what it would train."""

    dry_run: bool = option(False, "only say what would be done, and what it would cost")
    max_price: float | None = option(
        None, "CPU seconds; a run whose predicted cost is higher is refused", min=0, metavar="CPU_SECONDS"
    )
    promote: bool = option(True, "make the candidate live if it passes the gate")
    lease_seconds: float = option(
        120.0, "seconds without a sign of life after which another run may take over", above=0, name="lease"
    )
    wait_seconds: float = option(0.0, "seconds to wait for the lease of another run", min=0, name="wait")
    sign: str = option("", "private key in PEM that signs the candidate")
    show: bool = False  # progress bars are shown

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Job(Scripted):
    """One task to be retrained: everything that a process on any machine must be given."""

    place: Place = field(default_factory=Place)
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Outcome:
    """The result of a run; `--json` prints it."""

    task: str
    action: str  # nothing, head, warm, scratch, adopt (a version that an earlier run published), refused, error
    exit: int  # exit status of the command
    reason: str
    verdict: str = ""  # verdict of the gate: PASS, FAIL, NO_EVIDENCE; "" if the gate was not reached
    version: int | None = None  # number of the candidate
    promoted: bool = False
    live: int | None = None  # number of the version that is live now
    generation: int = 0  # generation of the task after the run
    changes: ChangeReport | NotReached = NOT_REACHED  # changed rows, labels, and drift
    predicted: PriceEstimate | NotReached = NOT_REACHED  # predicted cost
    measured: CostRecord | NotReached = NOT_REACHED  # measured cost
    rows_computed: int = 0  # forward passes of a row that no cache had
    gate: GateReport | NotReached = NOT_REACHED  # report of the gate
    run_id: str = ""  # id of the run in the registry
    seconds: float = 0.0  # wall time of the run
    cpu_seconds: float = 0.0  # CPU time of the whole verb; 0.0 where there was nothing to do

    @property
    def exit_status(self) -> int:
        """Returns the exit status of the command."""
        return self.exit
