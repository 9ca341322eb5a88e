"""The score that a search reaches within a budget of CPU seconds, against Optuna's TPE driving `topgraft train`.

    python -m benchmarks.search_budget --data ../shared/data [--set emotion] [--budget 600] [--seeds 0 1 2]

All sides have the space of `benchmarks.search`, a home whose cache holds all states, and the same budget. `grid` and
`tpe` are `topgraft search` with that sampler. `optuna` proposes a point, trains it whole in a process of its own, and
is told its development score, until the budget is spent; the training that goes beyond it is not counted. The test
score of a choice is that of its separate training, which no side is charged for.

The summary has what each search took of its price, told before its first trial. It also compares two choices of one
search by score, bytes and operations: the best score, and the cheapest point of the front whose score is no worse than
the noise of the best one's interval. Precision is equal on both sides. `results/search_front_SET.svg` is a picture of
the first seed's points by `tpe`, the front in blue.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from benchmarks.front_picture import Spot, picture
from benchmarks.results import RESULTS, RawRuns, parsed, write
from benchmarks.search import GRIDS, ONE, Cells

SETS = ("trec6", "emotion")
SIDES = ("tpe", "grid", "optuna")
OBJECTIVES = "score,flops,bytes"


class Budgeted(Cells):
    """The sides on one set and seed, in one warm home."""

    def warmed(self) -> None:
        """Fills the cache with the states of both boundaries, and compiles the probes' programs; nobody is charged."""
        for k in (1, 2):
            self.trained(f"fill-{k}", (*ONE, f"plan.stages=top({k})"), home="warm-home")

    def ours(self, sampler: str, budget: float) -> dict[str, Any]:
        """Searches within a budget."""
        script = self.folder / "space.py"
        script.write_text(
            f"from trainers.search.space import Space\n\n\ndef get_space():\n    return Space({GRIDS!r})\n"
        )
        words = ("--space", str(script), "--workdir", str(self.folder / sampler), "--sampler", sampler)
        more = ("--objectives", OBJECTIVES, "--budget", str(budget))
        result, spent = self.answered("search", *words, *more, home="warm-home")
        by_id = {one["id"]: one for one in result["candidates"]}
        best = by_id[result["recommended"]]
        aware = cheapest(result["candidates"], best)
        return {
            "dev": best["score"],
            "test": self.test(best["settings"]),
            "tried": len(by_id),
            "cpu_seconds": spent,
            "predicted_cpu_seconds": result["predicted_cpu_seconds"],
            "search_cpu_seconds": result["cpu_seconds"],
            **{f"best {name}": best["measures"][name] for name in ("flops", "bytes")},
            **{f"aware {name}": aware["measures"][name] for name in ("flops", "bytes")},
            "aware test": self.test(aware["settings"]),
            "points": [[one["measures"]["flops"], one["score"], one["front"]] for one in by_id.values()],
        }

    def optuna(self, budget: float) -> dict[str, Any]:
        """Lets Optuna's TPE drive `topgraft train` until the budget is spent."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed))
        spent, tried, best, last = 0.0, 0, (-1.0, {}), 0.0
        while spent < budget:
            trial = study.ask()
            grid = GRIDS[trial.suggest_int("grid", 0, len(GRIDS) - 1)]
            settings = {
                name: str(values[trial.suggest_int(f"{name} of {len(values)}", 0, len(values) - 1)])
                for name, values in grid.items()
            }
            overrides = tuple(f"{name}={value}" for name, value in settings.items())
            run = self.trained(f"trial-{tried}", overrides, home="warm-home")
            last = run["cpu_seconds"]
            spent += last
            if spent > budget and tried:
                break
            study.tell(trial, run["dev"])
            tried += 1
            best = max(best, (run["dev"], settings), key=lambda pair: pair[0])
        return {"dev": best[0], "test": self.test(best[1]), "tried": tried, "cpu_seconds": round(spent, 2)}

    def test(self, settings: Mapping[str, str]) -> float:
        """Returns the test score of a separate training of a point."""
        overrides = tuple(f"{name}={value}" for name, value in settings.items())
        score: float = self.trained("choice", overrides, home="warm-home")["test"]
        return score


def cheapest(candidates: list[dict[str, Any]], best: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the front's point with the fewest operations, then bytes, whose score lies in the best's interval."""
    near = [one for one in candidates if one["front"] and one["score"] >= best["low"]]
    return min(near, key=lambda one: (one["measures"]["flops"], one["measures"]["bytes"]))


def summary(runs: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns scores by set and side, the differences to Optuna in points, prices, and what cheap objectives save."""
    table: dict[str, Any] = {}
    for name, budget in dict.fromkeys((key[0], key[3]) for key in runs):
        line: dict[str, Any] = {}
        for side in SIDES:
            of_side = {key[2]: run for key, run in runs.items() if key[:2] == (name, side) and key[3] == budget}
            if not of_side:
                continue
            values = list(of_side.values())
            line[side] = {
                "dev": round(statistics.mean(run["dev"] for run in values), 4),
                "test": round(statistics.mean(run["test"] for run in values), 4),
                "tried": [run["tried"] for run in values],
            }
            both = [(run, runs[name, "optuna", seed, budget]) for seed, run in of_side.items()
                    if side != "optuna" and (name, "optuna", seed, budget) in runs]  # fmt: skip
            for split in ("dev", "test") if both else ():
                gains = [100 * (one[split] - other[split]) for one, other in both]
                line[side][f"{split}, points above optuna"] = [round(gain, 2) for gain in gains]
            if side != "optuna":
                line[side] |= {
                    "took / predicted": [
                        round(r["search_cpu_seconds"] / r["predicted_cpu_seconds"], 2) for r in values
                    ],
                    "took / budget": [round(r["search_cpu_seconds"] / budget, 2) for r in values],
                    "aware / score-only": {
                        what: [round(r[f"aware {what}"] / r[f"best {what}"], 2) for r in values]
                        for what in ("flops", "bytes")
                    },
                    "aware less score-only, points of test": [
                        round(100 * (r["aware test"] - r["test"]), 2) for r in values
                    ],
                }
        table[f"{name}, {budget:g} CPU s"] = line
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--set", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--budget", type=float, default=600.0, help="CPU seconds of each side")
    options, provenance = parsed(parser)
    data = str(Path(options.data).resolve())
    runs = RawRuns("search_budget", ("set", "side", "seed", "budget"), provenance)
    for name, seed in ((name, seed) for name in options.set for seed in options.seeds):
        places = [{"set": name, "side": side, "seed": seed, "budget": options.budget} for side in options.sides]
        missing = [place for place in places if runs.place(place) not in runs.done]
        with tempfile.TemporaryDirectory(prefix="topgraft-budget-") as folder:
            cells = Budgeted(Path(folder), data, name, seed, 0)
            if missing:
                cells.warmed()
            for place in missing:
                budget = options.budget
                run = cells.optuna(budget) if place["side"] == "optuna" else cells.ours(place["side"], budget)
                runs.add({**place, **run})
                print(place, run, flush=True)
    for name, side, seed, budget in runs.done:
        if (side, seed, budget) == ("tpe", options.seeds[0], options.budget):
            spots = [Spot(*values) for values in runs.done[name, side, seed, budget]["points"]]
            title = f"{name}: {len(spots)} points, {budget:g} CPU seconds"
            (RESULTS / f"search_front_{name}.svg").write_text(picture(spots, title))
    table = summary(runs.done)
    print(json.dumps(table, indent=1))
    print(write("search_budget", {"summary": table, "raw": "search_budget.jsonl"}, provenance))


if __name__ == "__main__":
    main()
