"""What docs/extending.md shows is done here: the files are written into a copy of the tree, and the commands typed.

One process in the copy runs every command of the page, so that jax is imported and compiles once. It keeps the status
and the output of each, which the tests below read. A method of tests/strangers, written by somebody who had read only
the page, goes through the shared suite beside them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recipes import FILES, PAGE
from tests.tiny import rows, write_csv
from tests.trainers.pretraining.backbone_runs import paragraphs

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("adapters", "backbone", "configs", "metering", "registry", "serving", "tests", "trainers")
SCRIPT = "gain.py"  # the file that lies outside the tree
STRANGER = {
    "adapters/methods/loha.py": "loha.py",
    "tests/adapters/formulas/loha.py": "loha_formula.py",
}  # file of tests/strangers for each path
PATIENCE = 240.0  # seconds: a busy machine starts slowly
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (An? .*?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
RECIPES = {title: part for title, part in SECTIONS.items() if "script of your own" not in title}
PRODUCTION = [path for path in FILES if not path.startswith("tests/") and path != SCRIPT]


def commands(section: str) -> list[list[str]]:
    """Returns the words of each command in the section's `sh` blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


TYPED = {title: commands(section) for title, section in RECIPES.items()}
OF_STRANGER = [".venv/bin/python", "-m", "pytest", "tests/adapters/test_methods.py", "-k", "loha"]
OF_SCRIPT = ["topgraft", "train", SCRIPT, "--workdir", "runs/gain"]

DRIVER = """
import contextlib, io, json, sys

import pytest

import topgraft


class Passed:
    def __init__(self):
        self.names = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.names.append(report.nodeid)


results = []
for words in json.loads(sys.argv[1]):
    passed, text = Passed(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        if words[0] == "topgraft":
            status = topgraft.main(words[1:])
        else:
            status = int(pytest.main(["-q", "-p", "no:cacheprovider", *words[3:]], plugins=[passed]))
    results.append({"status": status, "text": text.getvalue(), "passed": passed.names})
    with open(sys.argv[2], "w") as file:
        json.dump(results, file)
"""


@dataclass(frozen=True)
class Place:
    """A copy of the tree with the files of the page, and what its commands came to."""

    folder: Path
    environment: dict[str, str]
    results: dict[str, dict]  # by command

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs a command line in the copy, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.folder, env=self.environment | environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


def write_data(folder: Path) -> None:
    """Writes the files that the page speaks of; all texts have one bucket, so that little is compiled."""
    for name, count, seed in (("train", 135, 1), ("test", 60, 2)):
        table = [(text, label) for text, label in rows(count, seed=seed) if len(text.split()) < 6]
        write_csv(folder / f"{name}.csv", table)
        (folder / f"{name}.fasttext").write_text("".join(f"__label__{label} {text}\n" for text, label in table))
        grades = [(text, str(3 * int(label[-1]))) for text, label in table]
        write_csv(folder / ("grades.csv" if name == "train" else "test_grades.csv"), grades)
    (folder / "corpus.txt").write_text("\n\n".join(paragraphs(120)), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tiny_path, tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("tree") / "topgraft"
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("former", "peers"))
    for name in ("topgraft.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for path, content in FILES.items():
        assert not (folder / path).exists(), f"{path} is in the tree already"
        (folder / path).write_text(content, encoding="utf-8")
    for path, name in STRANGER.items():
        shutil.copy(ROOT / "tests/strangers" / name, folder / path)
    shutil.copy(ROOT / "tests/goldens/extending/electra.safetensors", folder / "tests/goldens/families")
    write_data(folder)
    script = (folder / SCRIPT).read_text(encoding="utf-8")
    (folder / SCRIPT).write_text(script.replace('"minilm"', f'"{tiny_path}"'), encoding="utf-8")

    typed = [*(words for all_words in TYPED.values() for words in all_words), OF_STRANGER, OF_SCRIPT]
    small = ["--set", f"backbone={tiny_path}", "--set", "data.max_tokens=16", "--quiet"]
    done = [words + small if words[:2] == ["topgraft", "train"] else words for words in typed]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    results = folder / "results.json"
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(done), results],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    told = zip(map(shlex.join, typed), json.loads(results.read_text()), strict=True)
    return Place(folder, environment, dict(told))


@pytest.mark.parametrize("title", RECIPES)
def test_the_commands_of_a_recipe_do_what_they_should(title, place):
    assert TYPED[title]
    for words in TYPED[title]:
        result = place.results[shlex.join(words)]
        assert result["status"] == 0, f"{shlex.join(words)}\n{result['text'][-4000:]}"
        if words[0] != "topgraft":
            files = [word for word in words[3:] if word.endswith(".py")]
            assert words[:3] == [".venv/bin/python", "-m", "pytest"]
            for file in files:
                assert any(name.startswith(file) for name in result["passed"]), f"{file}: no test of {title} ran"


def test_a_variant_is_one_production_file():
    assert len(PRODUCTION) == len(RECIPES)
    for section in RECIPES.values():
        paths = re.findall(r"^```python\n# (\S+)$", section, re.MULTILINE)
        assert sum(path in PRODUCTION for path in paths) == 1
        assert sum(path.startswith("tests/") for path in paths) == len(paths) - 1 > 0
        folder = Path(next(path for path in paths if path in PRODUCTION)).parent
        assert f"| `{folder}/TAG.py` |" in TEXT, "the table says where the file lies"


def test_a_strangers_method_passes_the_suite_and_the_bank_with_one_production_file(place):
    result = place.results[shlex.join(OF_STRANGER)]
    assert result["status"] == 0, result["text"][-4000:]
    names = {name.rpartition("::")[2] for name in result["passed"]}
    assert {"test_a_bank_equals_each_adapter_alone[loha]", "test_merged_equals_unmerged[loha in the mlp]"} <= names
    assert [path for path in STRANGER if not path.startswith("tests/")] == ["adapters/methods/loha.py"]


def test_the_files_are_as_tidy_as_the_tree(place):
    for words in (("ruff", "check"), ("ruff", "format", "--check", "--diff")):
        done = place.run(*words, *FILES, *STRANGER)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_has_the_route_and_serves_the_methods(place, tiny_path):
    """What was trained above, by `topgraft serve` as the page types it, on a free port."""
    words = ["topgraft", "serve", "--grafts", "runs_served", "--backbone", str(tiny_path), "--port", "0"]
    for name in ("hira", "last_states", "ordinal"):
        shutil.copytree(place.folder / "runs" / name / "graft", place.folder / "runs_served" / name)
    small = ["--buckets", "16", "--batch-sizes", "8", "--slots", "2", "--labels", "4"]
    log = place.folder / "serve.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", *words, *small]
        process = subprocess.Popen(command, cwd=place.folder, env=place.environment, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (address := re.search(r"serving on (http://\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        for name in ("hira", "last_states", "ordinal"):
            (text, label), *_ = rows(1, seed=7)
            body = json.dumps({"model": name, "input": text}).encode()
            with urllib.request.urlopen(f"{address[1]}/v1/classify", body, timeout=PATIENCE) as response:
                (answer,) = json.load(response)["data"]
            assert answer["num_classes"] == len(answer["probs"]) == 3
            assert answer["label"] == (str(3 * int(label[-1])) if name == "ordinal" else label)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def test_a_variant_of_a_script_loads_where_the_script_is_named(place):
    trained = place.results[shlex.join(OF_SCRIPT)]
    assert trained["status"] == 0, trained["text"][-4000:]
    predict = ("topgraft", "predict", "runs/gain/graft", "--text", "ban bas")
    refused = place.run(*predict)
    assert refused.returncode == 2
    shown = re.search(r"^(topgraft predict: .*?)\n\$ ", TEXT, re.DOTALL | re.MULTILINE)
    assert refused.stderr.splitlines()[-1] == " ".join(shown[1].split())
    assert place.run(*predict, TOPGRAFT_VARIANTS=SCRIPT).returncode == 0
