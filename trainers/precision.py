"""The verb `precision`: what each precision of a backbone costs on this machine, and which one its trunk has.

The choice is written once, beside the backbones of the home. Training, retraining and serving read it from there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.machine import ready_to_compute
from backbone.cache import VARIANT_FILE
from backbone.home import boundaries_folder, resolve_backbone
from backbone.precisions.precision import FLOAT32, precision_named
from backbone.precisions.record import CalibrationRows, Choice, Measured, choice_of, record
from backbone.storage import Backbone, in_precision, load_backbone
from backbone.texts import load_json
from backbone.trees import count
from trainers.config import TrainConfig
from trainers.inputs import Inputs, only_rows, prepare
from trainers.pricing.precisions import Calibration, SiteError, choose, measure, site_errors, spread
from trainers.runs.run import Run

log = logging.getLogger(__name__)

MIN_PARAMETERS = 5_000_000  # parameters from which a trunk's speed is worth a measurement


@dataclass(frozen=True)
class PrecisionReport:
    """The result of `precision`; `--json` prints it."""

    backbone: str
    weights_id: str  # identity of the float32 weights
    precision: str  # precision of the trunk from now on
    reason: str
    measured: tuple[Measured, ...]  # one for each precision beside float32
    recorded: bool  # it is written in the home; False: nothing was ever chosen
    errors: tuple[SiteError, ...]  # error of every stored kernel and table, by precision

    def __str__(self) -> str:
        lines = [f"{self.backbone} {self.weights_id[:19]}...", "precision   speed   MB   cosine     lost"]
        lines.append(f"{FLOAT32:10}  {1:5.2f}")
        for one in self.measured:
            lost = "-" if one.lost is None else f"{one.lost:+.4f} +- {one.noise:.4f}"
            lines.append(f"{one.precision:10}  {one.speed:5.2f} {one.bytes / 1e6:5.0f}  {one.cosine:.6f}  {lost}")
        for one in self.measured:
            worst = max((error for error in self.errors if error.precision == one.precision), key=lambda e: e.error)
            lines.append(f"{one.precision:10}  the largest error of a kernel is {worst.error:.2%}, at {worst.site}")
        return "\n".join([*lines, f"{self.precision}: {self.reason}"])


def precision(backbone: str, *, choice: str = "", config: TrainConfig | None = None) -> PrecisionReport:
    """Measures the precisions of a backbone, and records `choice`: a precision, or "auto" for the best one.

    With a config its train rows are the calibration rows. Without a choice nothing is written.
    """
    if choice not in ("", "auto"):
        precision_named(choice, "--choose")
    ready_to_compute()
    if config is not None:
        inputs = prepare(
            only_rows(replace(config, backbone=backbone, precision=FLOAT32)), Run(Path()), splits=("train",)
        )
        trunk, rows = inputs.backbone, rows_of(inputs)
        measured = measure(inputs.backbone, calibration_of(inputs))
    else:
        trunk, rows = load_backbone(resolve_backbone(backbone), precision=FLOAT32), None
        measured = measure(trunk)
    before = choice_of(trunk.base_id)
    if choice:
        tag, reason = choose(measured) if choice == "auto" else (choice, "chosen by hand")
        after: Choice | None = record(trunk.base_id, tag, reason, measured, rows)
        if before is not None and before.precision != tag:
            log.warning("precision: grafts in %s are on another trunk now; train them again", before.precision)
    else:
        after = before
    tag, reason = (after.precision, after.reason) if after else (FLOAT32, "nothing was chosen; --choose auto does")
    return PrecisionReport(backbone, trunk.base_id, tag, reason, measured, after is not None, site_errors(trunk))


def settle(inputs: Inputs) -> Backbone:
    """Returns the backbone in the precision that this machine proposes, and records it, where that is open.

    It is open for a large trunk in float32 for which nothing was chosen and on which nothing rests.
    """
    trunk = inputs.backbone
    if (
        inputs.config.precision
        or choice_of(trunk.base_id) is not None
        or count(trunk.params) < MIN_PARAMETERS
        or _is_used(trunk.base_id)
    ):
        return trunk
    calibration = calibration_of(inputs)
    bucket = int(calibration.rows.buckets.max(initial=trunk.lengths[0]))
    measured = measure(trunk, calibration, shapes=((32, min(bucket, 32)),), for_speed=True)
    tag, reason = choose(measured)
    record(trunk.base_id, tag, reason, measured, rows_of(inputs))
    log.info("precision: %s: %s; `topgraft precision %s` shows and changes it", tag, reason, inputs.config.backbone)
    return trunk if tag == FLOAT32 else in_precision(trunk, tag)


def calibration_of(inputs: Inputs) -> Calibration:
    """Returns the train rows, at most MAX_ROWS of them, with the probe that they are judged by."""
    return Calibration(inputs.probe(), spread(inputs.train), inputs.config.metric)


def rows_of(inputs: Inputs) -> CalibrationRows:
    """Returns what tells the calibration rows from others."""
    return CalibrationRows(inputs.config.name, len(spread(inputs.train)), inputs.data.fingerprint["train"])


def _is_used(base_id: str) -> bool:
    """Returns whether states of these weights in float32 are kept on this machine: somebody has trained on them."""
    for file in boundaries_folder().glob(f"*/{VARIANT_FILE}"):
        try:
            if load_json(file.read_text(encoding="utf-8")).get("weights_id") == base_id:
                return True
        except (OSError, ValueError):
            continue
    return False
