"""`auto` against every single step: accuracy and CPU seconds of each, task by task.

    python -m benchmarks.climb --data ../shared/data [--only emotion] [--step probe] [--seeds 0]

Each run is one process from start to stored graft, with an empty home but for the imported backbone, so
that no step profits from another's cache; the test rows are scored afterwards. Development rows are a tenth
of the train rows, by hash, for all. Raw runs are kept in `results/climb.jsonl`; one that is there is not
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
from benchmarks.results import RawRuns, parsed, write

DOMAINS = ("books", "dvd", "kitchen_housewares", "MR")
SETTINGS = (
    "data.dev_fraction=0.1",
    "head_start=shrunk_probe",
    "epochs=3",
    "select=best",
    "curriculum.difficulty=none",
)
STEPS = {
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
    """For each task: means over the seeds, and `auto` beside the single step whose mean accuracy is the best.

    Costs are compared seed by seed, since seeds may have run on machines of different speed.
    """
    table = []
    for task in dict.fromkeys(key[0] for key in done):
        runs = {step: {key[2]: run for key, run in done.items() if key[:2] == (task, step)} for step in STEPS}
        seeds = sorted(set.intersection(*(set(of_step) for of_step in runs.values())))
        if not seeds:
            continue
        means = {
            step: {
                name: statistics.fmean(of_step[seed][name] for seed in seeds) for name in ("accuracy", "cpu_seconds")
            }
            for step, of_step in runs.items()
        }
        best = max((step for step in STEPS if step != "auto"), key=lambda step: means[step]["accuracy"])
        ratios = [runs["auto"][seed]["cpu_seconds"] / runs[best][seed]["cpu_seconds"] for seed in seeds]
        table.append(
            {
                "task": task,
                "seeds": seeds,
                "steps": means,
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
    parser.add_argument("--step", choices=STEPS, action="append")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    options, provenance = parsed(parser)
    data = str(Path(options.data).resolve())
    raw = RawRuns("climb", ("task", "step", "seed"), provenance)
    known = tasks(data)
    with tempfile.TemporaryDirectory() as name:
        for seed in options.seeds:
            for task in options.only or known:
                config, settings = known[task]
                for step in options.step or STEPS:
                    if (task, step, seed) in raw.done:
                        continue
                    home = fresh_home(Path(name))
                    result = trained(
                        config, home, data, (*SETTINGS, *settings, *STEPS[step], f"seed={seed}", "data.test=")
                    )
                    accuracy = evaluated(result["graft"], home, data, test_files(config, settings, data))
                    run = {"task": task, "step": step, "seed": seed, "accuracy": accuracy}
                    run |= {name: result[name] for name in ("seconds", "cpu_seconds")}
                    run["climb"] = [[r["name"], r["score"], r["kept"]] for r in result["climb"]]
                    run["dev"] = dev_scores(Path(result["graft"]).parent)
                    print(json.dumps(run), file=sys.stderr, flush=True)
                    raw.add(run)
    table = summary(raw.done)
    for entry in table:
        print(json.dumps(entry))
    print(write("climb", {"settings": SETTINGS, "summary": table, "raw": "climb.jsonl"}, provenance))


def dev_scores(workdir: Path) -> list[float]:
    """Development accuracy after each epoch of a step that was trained by gradient."""
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
