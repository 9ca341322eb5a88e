"""Work folders of retraining: one process in each, nothing left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
from pathlib import Path

from trainers.retrain.workspace import own_folder, remove_abandoned


def _use_many_times(base: Path, times: int) -> None:
    for _ in range(times):
        with own_folder(base, "key") as folder:
            (folder / "here").touch(exist_ok=False)
            (folder / "here").unlink()


def test_four_processes_never_share_a_folder_and_leave_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_use_many_times, args=(tmp_path, 300)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def fails(base: Path) -> None:
    """Work on `one` that ends with an error."""
    with contextlib.suppress(RuntimeError), own_folder(base, "one") as folder:
        (folder / "work").touch()
        raise RuntimeError


def test_a_failure_keeps_the_folder_for_the_same_data_and_other_data_removes_it(tmp_path):
    fails(tmp_path)
    with own_folder(tmp_path, "one") as again:
        assert (again / "work").exists()
        with own_folder(tmp_path, "one") as beside, own_folder(tmp_path, "two") as other:
            assert len({again, beside, other}) == 3
            assert (again / "work").exists(), "it is in use"
    fails(tmp_path)
    with own_folder(tmp_path, "two") as folder:
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]
    assert list(tmp_path.iterdir()) == []


def test_what_no_process_uses_is_removed(tmp_path):
    """Also a lock without its folder, as after a kill between the two removals."""
    fails(tmp_path)
    (tmp_path / ".two-0.lock").touch()
    with own_folder(tmp_path, "three") as used:
        remove_abandoned(tmp_path)
        assert used.exists()
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [used.name]
        assert not (tmp_path / ".two-0.lock").exists()
    remove_abandoned(tmp_path / "of a task that never ran")
    assert list(tmp_path.iterdir()) == []
