"""What a checkpoint notes beside the arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backbone.errors import InputError
from backbone.records import encode
from trainers.fitting.progress import Progress, progress_of
from trainers.runs.checkpoints import Checkpoints


def test_notes_of_a_checkpoint_are_those_of_its_moment(tmp_path):
    notes = {"history": [{"step": 1}]}
    leaf = np.zeros(3, np.float32)
    state = {"step": np.int32(1), "live": {"head": leaf}, "optimizer": leaf}
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        checkpoints.save(1, state, {"head": leaf}, {}, notes)
        notes["history"].append({"step": 2})
        checkpoints.wait()
        assert checkpoints.notes()["history"] == [{"step": 1}]


@pytest.mark.parametrize(
    "change", [{"other": 1}, {"boundary": "x"}, {"best_score": "x"}, {"stages": [{}]}, {"stages": [5]}]
)
def test_notes_of_another_kind_are_refused(change):
    assert progress_of(encode(Progress())) == Progress()
    assert progress_of({**encode(Progress()), "best_score": -math.inf}) == Progress(), "how a former version noted none"
    with pytest.raises(InputError, match=r"--resume: .* start in another --workdir"):
        progress_of({**encode(Progress()), **change})
