"""What a checkpoint notes beside the arrays."""

from __future__ import annotations

import errno
import math
import resource
import sys

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


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on another process needs Linux")
def test_a_disk_that_takes_no_more_is_an_error_that_names_the_folder(tmp_path):
    """Orbax has an error of its own for it, and raises that once more when it is closed."""
    large = np.random.default_rng(0).normal(size=100_000).astype(np.float32)  # nothing compresses it
    state = {"step": np.int32(1), "live": {"head": large}, "optimizer": large}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save() -> None:
        with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
            checkpoints.save(1, state, {}, {}, {})

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
        with pytest.raises(OSError, match="checkpoints") as caught:
            save()
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    save()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on another process needs Linux")
def test_a_checkpoint_whose_background_save_failed_is_never_trusted(tmp_path):
    """The save returns at once and fails later: the next call says so, and the checkpoint before it is gone on from."""

    def state_of(step: int) -> dict:
        large = np.random.default_rng(step).normal(size=100_000).astype(np.float32)
        return {"step": np.int32(step), "live": {"head": large}, "optimizer": large}

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def failed() -> None:
        with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
            checkpoints.save(1, state_of(1), {}, {}, {"at": 1})
            checkpoints.wait()
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
                checkpoints.save(2, state_of(2), {}, {}, {"at": 2})  # raises nothing yet
                with pytest.raises(OSError, match="checkpoints"):
                    checkpoints.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert checkpoints.notes() == {"at": 1}

    with pytest.raises(OSError, match="checkpoints"):
        failed()  # Orbax raises the error once more when it is closed
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        assert checkpoints.notes() == {"at": 1}
        restored, _, _ = checkpoints.restore(state_of(2), {}, {})
        np.testing.assert_array_equal(restored["live"]["head"], state_of(1)["live"]["head"])
        checkpoints.save(2, state_of(2), {}, {}, {"at": 2})
        checkpoints.wait()
        assert checkpoints.notes() == {"at": 2}


@pytest.mark.parametrize(
    "change", [{"other": 1}, {"boundary": "x"}, {"best_score": "x"}, {"stages": [{}]}, {"stages": [5]}]
)
def test_notes_of_another_kind_are_refused(change):
    assert progress_of(encode(Progress())) == Progress()
    assert progress_of({**encode(Progress()), "best_score": -math.inf}) == Progress(), "how a former version noted none"
    with pytest.raises(InputError, match=r"--resume: .* start in another --workdir"):
        progress_of({**encode(Progress()), **change})
