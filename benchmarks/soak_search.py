"""A search of 200 trials, killed ten times at random instants and resumed: the same trials and scores, none twice.

    python -m benchmarks.soak_search [--trials 200] [--kills 10] [--seed 0]

One search runs to its end undisturbed. Another of the same space is killed -9 when it has stored a random number of
pieces, ten times, and resumed each time. Both must have the same pieces with the same scores on the same resampled
rows, the same points must have gone on, and no stored piece may be written again. It takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, parsed, write
from tests.tiny import make_tiny_backbone, write_config
from trainers.search.pieces import TRIALS, read_pieces
from trainers.search.result import read_result

PATIENCE = 600.0  # seconds until a search has stored its next piece
SETTINGS = ("data.dev_fraction=0.25", "plan.stages=top(1)", "epochs=1")


@dataclass(frozen=True)
class Kill:
    """One kill."""

    stored: int  # pieces that were stored when it came
    rewritten: int  # stored pieces that were written again since the kill before


class Soak:
    """A small task and a space of a number of trials."""

    def __init__(self, folder: Path, trials: int):
        self.folder = folder
        self.config = write_config(folder / "config.py", make_tiny_backbone(folder / "backbone"), folder)
        rates = tuple(round(1e-3 * (i + 1), 6) for i in range(-(-trials // 4)))
        grid = {"adapter.method": ("lora",), "adapter.rank": (1, 2, 3, 4), "optimizer.learning_rate": rates}
        text = f"from trainers.search.space import Space\n\n\ndef get_space():\n    return Space(grids=({grid!r},))\n"
        (folder / "space.py").write_text(text)
        self.environment = os.environ | {"TOPGRAFT_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}

    def start(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        """Starts the search in a folder."""
        words = ["search", str(self.config), "--space", str(self.folder / "space.py"), "--quiet", *more]
        words += ["--workdir", str(self.folder / name), *(word for one in SETTINGS for word in ("--set", one))]
        return subprocess.Popen([sys.executable, "-m", "topgraft", *words], env=self.environment, stdout=sys.stderr)

    def stored(self, name: str) -> dict[str, int]:
        """Returns the time of each stored piece, ns."""
        return {path.name: path.stat().st_mtime_ns for path in (self.folder / name / TRIALS).glob("*.json")}

    def whole(self, name: str, *more: str) -> None:
        """Runs the search to its end."""
        status = self.start(name, *more).wait()
        if status:
            raise RuntimeError(f"{name}: status {status}")

    def killed(self, name: str, until: int, *more: str) -> bool:
        """Kills the search once `until` pieces are stored; returns whether it had not ended by then."""
        process, deadline = self.start(name, *more), time.monotonic() + PATIENCE
        while len(self.stored(name)) < until and process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"{name}: no further piece in {PATIENCE:g} s")
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL

    def essence(self, name: str) -> dict[tuple[int, str], Any]:
        """Returns what every run of the search has in common: steps and scores of each piece."""
        return {(p.rung, p.point): (p.steps, p.score, p.draws) for p in read_pieces(self.folder / name)}


def rewritten(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Returns how many pieces that were stored before were removed or written again."""
    return sum(after.get(name) != at for name, at in before.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the instants")
    options, provenance = parsed(parser)
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="topgraft-soak-search-") as folder:
        soak = Soak(Path(folder), options.trials)
        soak.whole("whole")
        pieces = len(soak.stored("whole"))
        kills: list[Kill] = []
        before: dict[str, int] = {}
        for until in sorted(draw.sample(range(1, pieces), options.kills)):
            if not soak.killed("killed", until, *(["--resume"] if kills else [])):
                raise RuntimeError(f"the search ended before it had {until} of {pieces} pieces")
            after = soak.stored("killed")
            kills.append(Kill(len(after), rewritten(before, after)))
            print(kills[-1], flush=True)
            before = after
        soak.whole("killed", "--resume")
        twice = sum(kill.rewritten for kill in kills) + rewritten(before, soak.stored("killed"))
        one, other = soak.essence("whole"), soak.essence("killed")
        result = {
            "trials": len({point for _, point in one}),
            "pieces": len(one),
            "killed at": [kill.stored for kill in kills],
            "pieces that differ": len(one.keys() ^ other.keys()) + sum(one[key] != other.get(key) for key in one),
            "pieces written twice": twice,
            "same choice": read_result(Path(folder) / "whole").recommended
            == read_result(Path(folder) / "killed").recommended,
        }
    print(json.dumps(result, indent=1))
    print(write("soak_search", result, provenance))
    if result["pieces that differ"] or twice or not result["same choice"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
