"""A search of 48 configurations: its cost against one training and against 48, and its choice on test rows.

    python -m benchmarks.search --data ../shared/data [--set trec6] [--seeds 0 1 2] [--parts search one separate]
        [--points 48]

TREC-6 has three seeds; about 1,500 rows of emotion and of CLINC150 have one, the first. Four methods of three sizes
each, in the top block or the top two, at two rates. `search` runs `topgraft search` in a home without cached states,
and so does `one`, the training of LoRA of rank 8 in the top two blocks. `separate` trains each configuration by
`topgraft train` with `select=last`, in a home whose cache has all states. Both sides choose on the same development
rows. The test score of the search's choice is that of its separate training. Each cell is a process of its own; cells
that are done on this machine and code are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.home import resolve_backbone
from benchmarks.command import answered
from benchmarks.results import ROOT, RawRuns, parsed, write
from trainers.config.load import load_config
from trainers.search.space import Space, points_of

RATES = (5e-4, 2e-3)
COMMON = {"plan.stages": ("top(1)", "top(2)"), "optimizer.learning_rate": RATES}
GRIDS: tuple[dict[str, tuple[object, ...]], ...] = (
    {"adapter.method": ("lora", "dora", "vera"), "adapter.rank": (2, 8, 16), **COMMON},
    {"adapter.method": ("bottleneck",), "adapter.width": (8, 32, 64), **COMMON},
)
SETS: dict[str, tuple[str, ...]] = {
    "trec6": (),
    "emotion": ("data.train_fraction=0.46",),
    "clinc150": ("data.train_fraction=0.1",),
}  # settings of each set beside the common ones
SETTINGS = ("data.dev_fraction=0.15", "head_start=shrunk_probe", "precision=float32")
ONE = ("adapter.method=lora", "adapter.rank=8", "plan.stages=top(2)", "optimizer.learning_rate=0.002")


class Cells:
    """The runs of one set and seed, in homes of a temporary folder."""

    def __init__(self, folder: Path, data: str, name: str, seed: int, points: int):
        self.folder, self.name, self.seed = folder, name, seed
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "TOPGRAFT_DATA": data}
        self.fixed = (*SETTINGS, *SETS[name], f"seed={seed}", f"backbone={resolve_backbone('minilm')}")
        os.environ["TOPGRAFT_DATA"] = data
        self.space = points_of(Space(GRIDS), load_config(name, self.fixed)).points[:points]

    def answered(
        self, verb: str, *words: str, home: str, overrides: tuple[str, ...] = ()
    ) -> tuple[dict[str, Any], float]:
        """Runs a verb on the set in a home of this folder; returns its result and its CPU seconds."""
        settings = [word for one in (*self.fixed, *overrides) for word in ("--set", one)]
        (self.folder / home).mkdir(exist_ok=True)
        environment = self.environment | {"TOPGRAFT_HOME": str(self.folder / home)}
        return answered([verb, self.name, *words, *settings], environment)

    def search(self) -> dict[str, Any]:
        """Searches all configurations, with no state cached before."""
        grids = [{name: (value,) for name, value in point.settings} for point in self.space]
        script = self.folder / "space.py"
        script.write_text(
            f"from trainers.search.space import Space\n\n\ndef get_space():\n    return Space(tuple({grids!r}))\n"
        )
        words = ("--space", str(script), "--workdir", str(self.folder / "search"))
        result, spent = self.answered("search", *words, home="search-home")
        best = next(one for one in result["candidates"] if one["id"] == result["recommended"])
        return {
            "cpu_seconds": spent,
            "predicted_cpu_seconds": result["predicted_cpu_seconds"],
            "search_cpu_seconds": result["cpu_seconds"],
            "choice": result["recommended"],
            "settings": best["settings"],
            "dev": best["score"],
            "tried": len(result["candidates"]),
            "groups": result["groups"],
            "rows_computed": result["rows_computed"],
        }

    def one(self) -> dict[str, Any]:
        """Trains LoRA in the top two blocks, with no state cached before."""
        return self.trained("one", ONE, home="one-home")

    def separate(self, number: int) -> dict[str, Any]:
        """Trains one configuration; the first training of the home has filled the cache before, uncounted."""
        if not (self.folder / "warm-home").exists():
            for k in (1, 2):
                self.trained(f"fill-{k}", (*ONE, f"plan.stages=top({k})"), home="warm-home")
        point = self.space[number]
        overrides = tuple(f"{name}={value}" for name, value in point.settings)
        return {"id": point.id, **self.trained(point.id, overrides, home="warm-home")}

    def trained(self, name: str, overrides: tuple[str, ...], *, home: str) -> dict[str, Any]:
        """Trains a configuration in a folder of its own."""
        folder = tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder)
        result, spent = self.answered(
            "train", "--workdir", f"{folder}/run", home=home, overrides=(*overrides, "select=last")
        )
        scores = {split: result["metrics"][split]["accuracy"] for split in ("dev", "test")}
        return {"cpu_seconds": spent, **scores}


def summary(runs: Mapping[tuple[Any, ...], Mapping[str, Any]], seeds: list[int]) -> dict[str, Any]:
    """Returns, of one set, the ratios of costs and the points that the choice lies below the exhaustive best."""
    table: dict[str, Any] = {}
    for seed in seeds:
        of_seed = {key[0]: run for key, run in runs.items() if key[1] == seed and key[0] in ("search", "one")}
        separate = [run for key, run in runs.items() if key[:2] == ("separate", seed)]
        if set(of_seed) != {"search", "one"}:
            continue
        found, one = of_seed["search"], of_seed["one"]
        line = {
            "search CPU s": found["cpu_seconds"],
            "against one training": round(found["cpu_seconds"] / one["cpu_seconds"], 2),
            "took / predicted": round(found["search_cpu_seconds"] / found["predicted_cpu_seconds"], 2),
        }
        chosen = [run for run in separate if run["id"] == found["choice"]]
        if len(separate) == found["tried"] and chosen:
            best = max(separate, key=lambda run: run["dev"])
            line["of separate trainings"] = round(found["cpu_seconds"] / sum(run["cpu_seconds"] for run in separate), 3)
            line["test points below the exhaustive choice"] = round(100 * (best["test"] - chosen[0]["test"]), 2)
        table[f"seed {seed}"] = line
    lines = list(table.values())
    if lines:
        shared = set.intersection(*(set(line) for line in lines))
        table["mean"] = {
            name: round(statistics.mean(line[name] for line in lines), 3) for name in lines[0] if name in shared
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--set", nargs="*", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="*", default=["search", "one", "separate"])
    parser.add_argument("--points", type=int, default=48, help="configurations, the first ones of the grid")
    options, provenance = parsed(parser)
    data = str(Path(options.data).resolve())
    runs = RawRuns("search", ("part", "seed", "number", "points", "set"), provenance)
    of_set = {name: options.seeds if name == "trec6" else options.seeds[:1] for name in options.set}
    for name, seed in ((name, seed) for name, seeds in of_set.items() for seed in seeds):
        with tempfile.TemporaryDirectory(prefix="topgraft-search-") as folder:
            cells = Cells(Path(folder), data, name, seed, options.points)
            for part in options.parts:
                for number in range(len(cells.space)) if part == "separate" else (0,):
                    place = {"part": part, "seed": seed, "number": number, "points": options.points, "set": name}
                    if tuple(place.values()) not in runs.done:
                        run = cells.separate(number) if part == "separate" else getattr(cells, part)()
                        print(place, run, flush=True)
                        runs.add({**place, **run})
    table = {
        name: summary({key: run for key, run in runs.done.items() if key[3:] == (options.points, name)}, seeds)
        for name, seeds in of_set.items()
    }
    print(json.dumps(table, indent=1))
    print(write("search", {"summary": table, "raw": "search.jsonl"}, provenance))


if __name__ == "__main__":
    main()
