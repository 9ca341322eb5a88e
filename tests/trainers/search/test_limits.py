"""What a search does at a limit: of a team's budget, and of the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from backbone.errors import InputError
from registry.budgets.read import read_budgets
from tests.trainers.search.searches import config_of
from trainers.search import rungs
from trainers.search.pieces import read_pieces
from trainers.search.run import search
from trainers.search.show import table
from trainers.search.space import Space

PROBES = Space(grids=({"adapter.method": ("probe",), "plan.stages": ("all",), "head.dropout": (0.0, 0.1, 0.2)},))


def budget(folder: Path, text: str):
    (folder / "budgets.toml").write_text(f'[default]\nowner = "team"\n\n[task.tiny]\n{text}')
    return read_budgets(folder / "budgets.toml").of("tiny")


def test_a_budget_keeps_a_point_off_the_front_by_file_and_line(config, tmp_path):
    limits = budget(tmp_path, "max_cpu_seconds = 1e-9\nmax_memory_mb = 900\n")
    result = search(config_of(config, "target.max_cpu_seconds=90"), PROBES, tmp_path / "run", limits=limits)
    assert not result.recommended
    assert all("budgets.toml:5 max_cpu_seconds=1e-09" in one.reason for one in result.candidates)
    assert len(result.unchecked) == 1
    assert "budgets.toml:6 max_memory_mb" in result.unchecked[0]
    assert "left to the gate" in table(result)


def test_the_narrower_of_config_and_budget_holds(config, tmp_path):
    limits = budget(tmp_path, "max_cpu_seconds = 90\n")
    result = search(config_of(config, "target.max_cpu_seconds=1e-9"), PROBES, tmp_path / "run", limits=limits)
    assert all("breaks target.max_cpu_seconds=1e-09" in one.reason for one in result.candidates)
    assert not result.unchecked


def test_a_floor_on_a_metric_that_the_head_lacks_is_refused(config, tmp_path):
    with pytest.raises(InputError, match=r"budgets.toml:5.*floors.spearman"):
        search(config_of(config), PROBES, tmp_path / "run", limits=budget(tmp_path, "floors.spearman = 0.5\n"))


def test_a_resumed_search_has_the_budget_that_it_began_with(config, tmp_path):
    limits = budget(tmp_path, "min_score = 0.1\n")
    first = search(config_of(config), PROBES, tmp_path / "run", limits=limits)
    assert search(config_of(config), PROBES, tmp_path / "run", limits=limits, resume=True) == first
    with pytest.raises(InputError, match="limits"):
        search(config_of(config), PROBES, tmp_path / "run", limits=budget(tmp_path, "min_score = 0.2\n"), resume=True)


def full(after: int, monkeypatch) -> None:
    """Makes every piece but the first `after` find a full disk."""
    add, stored = rungs.Folder.add, []

    def adding(folder, piece):
        if len(stored) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        stored.append(piece)
        add(folder, piece)

    monkeypatch.setattr(rungs.Folder, "add", adding)


def test_a_full_disk_loses_trials_and_not_the_search(config, tmp_path, monkeypatch):
    full(2, monkeypatch)
    result = search(config_of(config), PROBES, tmp_path / "run")
    assert len(result.candidates) == 2
    assert result.recommended
    assert len(result.lost) == 1
    assert len(result.untried) == 1
    assert "lost to a full disk" in table(result)


def test_a_disk_without_room_for_any_trial_ends_the_search_and_it_goes_on(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full(0, patch)
        with pytest.raises(OSError, match="no trial could be stored"):
            search(config_of(config), PROBES, tmp_path / "run")
    assert not read_pieces(tmp_path / "run")
    assert len(search(config_of(config), PROBES, tmp_path / "run", resume=True).candidates) == 3
