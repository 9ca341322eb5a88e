"""The settings of a retraining."""

from __future__ import annotations

import pytest

from backbone.errors import InputError
from trainers.config import Target
from trainers.config.retrain import Bound, Column, Gate, Retrain
from trainers.retrain.fleet import retrain_all
from trainers.retrain.outcome import Options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gate(confidence=1.0), "confidence"),
        (lambda: Gate(tolerance=-1), "tolerance"),
        (lambda: Bound(), "max_drop"),
        (lambda: Column(min=2.0, max=1.0), "min"),
        (lambda: Retrain(head_share=0.6, warm_share=0.5), "head_share"),
        (lambda: Retrain(warm_epochs=0), "warm_epochs"),
        (lambda: Options(lease_seconds=0), r"--lease: must be a finite number in \(0, inf\), got '0'"),
        (lambda: Options(max_price=float("nan")), "--max-price: must be a finite number"),
        (lambda: retrain_all([], executor="processes", workers=0), "--workers: must be at least 1"),
        (lambda: Target(max_latency_ms=-1), "max_latency_ms"),
    ],
)
def test_specs_validate_themselves(make, message):
    with pytest.raises(InputError, match=message):
        make()
