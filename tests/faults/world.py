"""The folder of an enumeration: inputs that no fault concerns, and the root below which every change is a point.

inputs/     backbone, rows, config scripts, grafts, compiled programs
root/       home, registry, store and work folder of a run
templates/  the root before each scenario
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backbone.storage import load_backbone
from tests.faults.databases import Database, Server, SqliteFile
from tests.grafts import make
from tests.tiny import SPEC, make_tiny_backbone, rows, write_csv

DAYS_40 = 40 * 24 * 3600.0  # seconds after which gc takes everything for abandoned
ROWS = 48
TASK = "t"


@dataclass(frozen=True)
class World:
    """The places of an enumeration."""

    folder: Path
    port: int = 0  # port of the PostgreSQL that holds the registry; 0 where it is a file

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def workdir(self) -> Path:
        return self.root / "work"

    @property
    def database(self) -> Database:
        return Server(self.port) if self.port else SqliteFile(self.root / "registry.db")

    @property
    def url(self) -> str:
        return self.database.url

    @property
    def exported(self) -> Path:
        return self.root / "registry.jsonl"

    @property
    def peft(self) -> Path:
        return self.root / "peft"

    @property
    def backbone(self) -> Path:
        return self.inputs / "backbone"

    def graft(self, number: int) -> Path:
        return self.inputs / "grafts" / str(number)

    def variables(self) -> Mapping[str, str]:
        """Returns the variables of a process that works here; it compiles every program once."""
        keep = {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return {"TOPGRAFT_HOME": str(self.home), **keep}

    def write_inputs(self) -> None:
        """Makes the backbone, the rows and the config scripts."""
        self.inputs.mkdir(parents=True, exist_ok=True)
        for name in ("programs", "machines"):
            (self.inputs / name).mkdir(exist_ok=True)
        make_tiny_backbone(self.backbone, spec=replace(SPEC, blocks=2))
        write_csv(self.inputs / "test.csv", rows(24, seed=2))
        for name, extra in (("probe", "adapter=Probe()"), ("lora", LORA)):
            self.write_config(name, extra)
        self.write_rows(0)
        tiny = load_backbone(self.backbone)
        for number in range(4):
            make(self.graft(number), tiny, seed=number)

    def write_config(self, name: str, extra: str) -> None:
        data = f"Data(train={str(self.inputs / 'train.csv')!r}, test={str(self.inputs / 'test.csv')!r}, max_tokens=24)"
        (self.inputs / f"{name}.py").write_text(
            "from adapters.specs import *\nfrom trainers.config import *\n\n"
            f"def get_config():\n    data = {data}\n"
            f"    return TrainConfig(name={TASK!r}, backbone={str(self.backbone)!r}, data=data, {extra})\n"
        )

    def write_rows(self, added: int) -> None:
        """Writes the rows to train on; `added` of them are new."""
        write_csv(self.inputs / "train.csv", rows(ROWS, seed=1) + rows(added, seed=3))

    def empty(self) -> None:
        """Makes the root empty, but for links to what the machine knows already."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.home.mkdir(parents=True)
        for name in ("programs", "machines"):
            (self.home / name).symlink_to(self.inputs / name)
        self.database.empty()

    def keep(self, name: str) -> None:
        """Keeps the root as the template of a scenario."""
        shutil.copytree(self.root, self.folder / "templates" / name, symlinks=True)
        self.database.keep(name)

    def restore(self, name: str) -> None:
        """Makes the root what it was before a scenario."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.folder / "templates" / name, self.root, symlinks=True)
        self.database.restore(name)

    def age(self) -> None:
        """Makes every file 40 days old."""
        then = time.time() - DAYS_40
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                os.utime(Path(folder) / name, (then, then), follow_symlinks=False)


LORA = (
    "adapter=Lora(rank=2), plan=Plan(stages='top(1)', cache='float32'), epochs=1, batch_size=16, "
    "checkpoint_seconds=0, select='last', head_start='zero'"
)
