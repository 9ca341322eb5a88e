"""Small searches on the tiny backbone."""

from __future__ import annotations

from pathlib import Path

from trainers.config import TrainConfig
from trainers.config.load import load_config
from trainers.search.space import Space

RANKS = Space(
    grids=(
        {"adapter.method": ("probe",), "plan.stages": ("all",)},
        {"adapter.method": ("lora",), "adapter.rank": (1, 2, 4), "optimizer.learning_rate": (3e-3, 1e-2)},
    )
)
SCRIPT = "from trainers.search.space import Space\n\n\ndef get_space():\n    return Space(grids=({}))\n"


def config_of(script: Path, *overrides: str) -> TrainConfig:
    """The config with development rows and stages that leave the blocks below to the cache."""
    return load_config(script, ["data.dev_fraction=0.25", "plan.stages=top(1)", "epochs=1", *overrides])


def write_space(path: Path, grids: str) -> Path:
    path.write_text(SCRIPT.format(grids))
    return path
