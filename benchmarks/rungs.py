"""`auto` against every single rung: accuracy and CPU seconds of each, task by task.

    python -m benchmarks.rungs --data ../shared/data [--only emotion] [--rung probe] [--seeds 0]

Each run is one process from start to stored graft, with an empty home but for the imported backbone, so
that no rung profits from another's cache; the test rows are scored afterwards. Development rows are a tenth
of the train rows, by hash, for all. Raw runs are kept in `results/rungs.jsonl`; one that is there is not
repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.never_twice import evaluated, fresh_home, trained
from benchmarks.results import RESULTS, commit, write

RAW = RESULTS / "rungs.jsonl"
DOMAINS = ("books", "dvd", "kitchen_housewares", "MR")
SETTINGS = (
    "data.dev_fraction=0.1",
    "head_start=shrunk_probe",
    "epochs=3",
    "select=best",
    "curriculum.difficulty=none",
)
RUNGS = {
    "probe": ("adapter.method=probe",),
    "probe_all": ("adapter.method=probe", "adapter.boundaries="),
    "top": ("plan.stages=top(2)",),
    "all": ("plan.stages=all",),
    "auto": ("plan.stages=auto",),
}


def tasks(data: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Config and settings by task; the test rows are those of the config."""
    named = {name: (name, ()) for name in ("banking77", "trec6", "sst2", "clinc150")}  # sst2: 10 % of its rows
    named["emotion"] = ("emotion", ("data.dev=",))
    for domain in DOMAINS:
        files = tuple(f"data.{split}={data}/fdu_mtl/{domain}.task.{split}" for split in ("train", "test"))
        layout = ("data.format=tsv", "data.encoding=latin-1", "data.columns=label,text", "data.max_tokens=128")
        named[f"fdu_mtl {domain}"] = ("text_classification", (*files, *layout))
    return named


def summary(done: dict[tuple[str, str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """For each task: means over the seeds, and `auto` beside the single rung whose mean accuracy is the best.

    Costs are compared seed by seed, since seeds may have run on machines of different speed.
    """
    table = []
    for task in dict.fromkeys(key[0] for key in done):
        runs = {rung: {key[2]: run for key, run in done.items() if key[:2] == (task, rung)} for rung in RUNGS}
        seeds = sorted(set.intersection(*(set(of_rung) for of_rung in runs.values())))
        if not seeds:
            continue
        means = {
            rung: {
                name: statistics.fmean(of_rung[seed][name] for seed in seeds) for name in ("accuracy", "cpu_seconds")
            }
            for rung, of_rung in runs.items()
        }
        best = max((rung for rung in RUNGS if rung != "auto"), key=lambda rung: means[rung]["accuracy"])
        ratios = [runs["auto"][seed]["cpu_seconds"] / runs[best][seed]["cpu_seconds"] for seed in seeds]
        table.append(
            {
                "task": task,
                "seeds": seeds,
                "rungs": means,
                "best": best,
                "points_below_best": 100 * (means[best]["accuracy"] - means["auto"]["accuracy"]),
                "times_its_cost": statistics.fmean(ratios),
                "times_its_cost_by_seed": ratios,
            }
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--only", action="append", help="a task; may be repeated")
    parser.add_argument("--rung", choices=RUNGS, action="append")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    options = parser.parse_args()
    data = str(Path(options.data).resolve())
    done: dict[tuple[str, str, int], dict[str, Any]] = {}
    if RAW.exists():
        for line in RAW.read_text().splitlines():
            run = json.loads(line)
            done[run["task"], run["rung"], run["seed"]] = run
    known = tasks(data)
    with tempfile.TemporaryDirectory() as name:
        for seed in options.seeds:
            for task in options.only or known:
                config, settings = known[task]
                for rung in options.rung or RUNGS:
                    if (task, rung, seed) in done:
                        continue
                    home = fresh_home(Path(name))
                    result = trained(
                        config, home, data, (*SETTINGS, *settings, *RUNGS[rung], f"seed={seed}", "data.test=")
                    )
                    accuracy = evaluated(result["graft"], home, data, test_files(config, settings, data))
                    run = {"task": task, "rung": rung, "seed": seed, "commit": commit(), "accuracy": accuracy}
                    run |= {name: result[name] for name in ("seconds", "cpu_seconds")}
                    run["rungs"] = [[r["name"], r["score"], r["kept"]] for r in result["climb"]]
                    run["dev"] = dev_scores(Path(result["graft"]).parent)
                    print(json.dumps(run), file=sys.stderr, flush=True)
                    with RAW.open("a") as file:
                        file.write(json.dumps(run) + "\n")
                    done[task, rung, seed] = run
    table = summary(done)
    for entry in table:
        print(json.dumps(entry))
    print(write("rungs", {"settings": SETTINGS, "summary": table, "raw": "rungs.jsonl"}))


def dev_scores(workdir: Path) -> list[float]:
    """Development accuracy after each epoch of a rung that was trained by gradient."""
    file = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line["dev/accuracy"] for line in lines if "dev/accuracy" in line]


def test_files(config: str, settings: tuple[str, ...], data: str) -> tuple[str, ...]:
    """Settings that name a task's test rows for `evaluate`."""
    own = [setting for setting in settings if setting.startswith("data.test=")]
    files = {
        "banking77": f"{data}/banking77/test.csv",
        "trec6": f"{data}/trec6/TREC.test.all",
        "clinc150": f"{data}/clinc150/data_full.json#test",
        "sst2": f"{data}/glue_sst2/dev.tsv",
        "emotion": f"{data}/tweet_eval/emotion/test_text.txt,{data}/tweet_eval/emotion/test_labels.txt",
    }
    return (own[0] if own else f"data.test={files[config]}", "data.train=", "data.dev=")


if __name__ == "__main__":
    main()
