"""Makes `tests/former`: what the former version of Topgraft stores, for `tests/test_former.py` of later versions.

    JAX_PLATFORMS=cpu python -m tests.former.make

Run it with the former version only (commit 0ad4644): a later version would prove nothing but that it reads its own
files. It writes everything anew but the config scripts, and needs PostgreSQL. All commands run in the folder `AT`,
so that no path of the machine gets into what is stored, and under the name of a machine that does not exist.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import topgraft
from tests.former.runs import CHILD, FORMER, answers, called, load_config, numerics
from tests.registry.postgres import binaries, running
from tests.tiny import WORDS, make_tiny_backbone, rows, write_csv

AT = Path("/srv/grafts")
GRAFTS = ("lora", "bottleneck", "probe", "ladder", "tags")
RUNS = GRAFTS[:3]
TASKS = ("topics", "climb", "aspects")
FIRST = 150  # rows of the first version of `topics`
NAMED = f"import platform; platform.node = lambda: 'grafts'\n{CHILD}"  # owners of leases and runs name the machine
RUN = "policy"  # name of a config script whose run is stored whole, and interrupted
FOLDERS = ("finished", "interrupted")
RUBBISH = ("runs/finished/tensorboard", "runs/interrupted/tensorboard", "runs/interrupted/checkpoints/4")
KILLED = f"""
import os
from trainers.checkpoints import Checkpoints
save, saved = Checkpoints.save, []
def save_and_die(self, *arguments):
    save(self, *arguments)
    self.wait()
    saved.append(1)
    if len(saved) == 5:
        os._exit(9)
Checkpoints.save = save_and_die
{CHILD}"""
KNOWN = WORDS[::6]  # of which texts are made
OPENING = [word for word in KNOWN if word[0] in "bd"]
SHORT = 9  # words of the longest text of `topics`, all of which lie in one bucket; `aspects` has two


def topics(count: int, seed: int) -> list[tuple[str, str]]:
    """Gives short texts, each with its label."""
    return [(" ".join(text.split()[:SHORT]), label) for text, label in rows(count, seed=seed)]


TABLE, NEW = topics(180, 1), topics(8, 3)


def aspects(count: int, seed: int) -> str:
    """Gives JSON lines of two texts in one, with the labels of both."""
    left, right = rows(count, seed=seed), rows(count, seed=seed + 100)
    lines = []
    for (a, x), (b, y) in zip(left, right, strict=True):
        text = f"{a} {b}"
        lines.append(json.dumps({"text": text, "labels": sorted({x, y})}) + "\n")
    return "".join(lines)


def scores(count: int, seed: int) -> str:
    """Gives lines of a text and a number that its words betray."""
    draw = random.Random(seed)
    return "text\tscore\n" + "".join(
        f"{text}\t{int(label[-1]) + draw.random() / 4:.3f}\n" for text, label in rows(count, seed=seed)
    )


def words(count: int, seed: int) -> str:
    """Gives a word and its tag a line: b opens an entity, d continues what is open."""
    draw, lines = random.Random(seed), []
    for _ in range(count):
        before = "O"
        for _ in range(draw.choice((4, 5, 9))):
            word = draw.choice(OPENING if draw.random() < 0.5 else KNOWN)
            before = "B-x" if word[0] == "b" else "I-x" if word[0] == "d" and before != "O" else "O"
            lines.append(f"{word} {before}\n")
        lines.append("\n")
    return "".join(lines)


def write_data() -> None:
    """Writes the data files, `topics.csv` without its last rows."""
    data = AT / "data"
    data.mkdir()
    write_csv(data / "topics.csv", TABLE[:FIRST])
    write_csv(data / "topics_test.csv", topics(40, 2))
    (data / "aspects.jsonl").write_text(aspects(120, 4))
    (data / "aspects_test.jsonl").write_text(aspects(40, 5))
    (data / "scores.tsv").write_text(scores(100, 6))
    (data / "words.bio").write_text(words(100, 7))


def retrained(url: str) -> dict[str, dict[str, Any]]:
    """Retrains every task, `topics` twice; gives what is live."""
    options = ("--registry", url, "--store", "store", "--quiet")
    write_csv(AT / "data" / "topics.csv", TABLE[:FIRST])
    (first,) = called(AT, [("retrain", "configs/topics.py", *options)], child=NAMED)
    assert first["promoted"], first
    write_csv(AT / "data" / "topics.csv", TABLE)
    live = {}
    for outcome in called(AT, [("retrain", f"configs/{task}.py", *options) for task in TASKS], child=NAMED):
        assert outcome["promoted"], outcome
        (shown,) = called(AT, [("registry", "show", outcome["task"], *options[:4])])
        live[outcome["task"]] = {"version": shown["number"], "content_id": shown["content_id"]}
        print(outcome["task"], outcome["action"], outcome["verdict"], outcome["rows_computed"], live[outcome["task"]])
    return live


def dump(folder: Path) -> dict[str, dict[str, Any]]:
    """Retrains every task with a registry on PostgreSQL and writes it as SQL; gives what is live."""
    with running(folder) as server:
        host = f"host=127.0.0.1 port={server.port} user=topgraft"
        with psycopg.connect(f"{host} dbname=postgres", autocommit=True) as admin:
            admin.execute("create database grafts")
        live = retrained(f"postgresql://topgraft@127.0.0.1:{server.port}/grafts")
        command = [
            folder / "pg_dump",
            "--no-owner",
            "--no-privileges",
            "--inserts",
            "--dbname",
            f"{host} dbname=grafts",
        ]
        (AT / "registry.sql").write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return live


def stored_runs() -> None:
    """Trains `runs/policy.py` twice, the second time until it is killed; keeps the newest checkpoint of that run."""
    lines = {name: ["train", f"runs/{RUN}.py", "--workdir", f"runs/{name}", "--quiet"] for name in FOLDERS}
    called(AT, [lines["finished"]], "empty")
    with pytest.raises(AssertionError):
        called(AT, [lines["interrupted"]], "empty", child=KILLED)
    for folder in map(AT.joinpath, ("runs/finished/checkpoints", "runs/finished/graft", *RUBBISH)):
        shutil.rmtree(folder)


def plain(value: Any) -> Any:
    """Gives a config as JSON, with the kinds of its methods and head, which are no fields."""
    if is_dataclass(value):
        kinds = {name: getattr(value, name) for name in ("method", "kind") if hasattr(value, name)}
        return kinds | {name: plain(getattr(value, name)) for name in asdict(value)}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def main() -> None:
    """Makes everything in `AT`, then puts it in the place of the fixture."""
    folder = binaries()
    assert folder is not None, "PostgreSQL is not installed"
    AT.mkdir(parents=True)
    with contextlib.chdir(AT):
        make_tiny_backbone(AT / "backbone")
        shutil.copytree(FORMER / "configs", AT / "configs", ignore=shutil.ignore_patterns("__pycache__"))
        write_data()
        live = retrained("sqlite:///registry.db")
        with contextlib.closing(sqlite3.connect("registry.db")) as database:
            assert database.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0
        assert dump(folder) == live
        lines = {name: ["train", f"configs/{name}.py", "--workdir", f"made/{name}", "--quiet"] for name in GRAFTS}
        runs = dict(zip(lines, called(AT, list(lines.values()), "empty"), strict=True))
        for name in GRAFTS:
            shutil.copytree(AT / runs[name]["graft"], AT / "grafts" / name)
            print(name, runs[name]["content_id"], runs[name]["metrics"], runs[name]["exits"])
        shutil.copytree(FORMER / "runs", AT / "runs", ignore=shutil.ignore_patterns(*FOLDERS))
        stored_runs()
        sqlite = ("--registry", "sqlite:///registry.db", "--store", "store")
        shows = [("registry", "show", task, *sqlite) for task in TASKS]
        cache, audit, *shown = called(AT, [("cache", "stat"), ("registry", "audit", *sqlite), *shows])
        texts = [text for text, _ in rows(6, seed=11)] + [" ".join(WORDS[1:6])]
        expected = {
            "texts": texts,
            "configs": {path.stem: plain(load_config(path)) for path in sorted(Path("configs").glob("*.py"))},
            "grafts": {name: answers(topgraft.load(f"grafts/{name}", "backbone"), texts) for name in GRAFTS},
            "tasks": {
                task: answers(topgraft.load(told["folder"], "backbone"), texts)
                for task, told in zip(TASKS, shown, strict=True)
            },
            "audit": audit,
            "cache_bytes": cache["bytes"],
            "new_rows": [",".join(row) for row in NEW],
        }
        made = {
            "made_by": "topgraft, commit 0ad4644, by tests/former/make.py",
            "numerics": numerics(),
            "grafts": {name: runs[name]["content_id"] for name in GRAFTS},
            "tasks": live,
            "runs": {name: {"command": lines[name], "content_id": runs[name]["content_id"]} for name in RUNS},
        }
        for name, values in (("expected.json", expected), ("content_ids.json", made)):
            (AT / name).write_text(json.dumps(values, indent=1) + "\n")
    put()


def put() -> None:
    """Replaces the fixture by what was made."""
    for name in ("backbone", "data", "grafts", "runs/finished", "runs/interrupted", "store", "home"):
        shutil.rmtree(FORMER / name, ignore_errors=True)
    for name in ("backbone", "data", "grafts", "runs/finished", "runs/interrupted", "store"):
        shutil.copytree(AT / name, FORMER / name)
    shutil.copytree(AT / "home" / "boundaries", FORMER / "home" / "boundaries")
    for name in ("registry.db", "registry.sql", "expected.json", "content_ids.json"):
        shutil.copyfile(AT / name, FORMER / name)
    shutil.rmtree(AT)


if __name__ == "__main__":
    main()
