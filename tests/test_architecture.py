"""The map in docs/architecture.md is the code: names resolve, rooms are there, frames are as few as it says."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backbone.variants.registered import Registered, variants
from trainers.commands import VERBS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("backbone", "metering", "adapters", "registry", "trainers", "serving", "topgraft")
NAMES = sorted(set(re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`", PAGE)) - {"topgraft.py"})
FOLDERS = sorted(set(re.findall(r"`((?:trainers|adapters|backbone|serving)/[\w/]+)`", PAGE)))


def resolve(name: str):
    """Returns the module, class, method or function of a dotted name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_on_the_page_is_in_the_code(name):
    assert resolve(name) is not None


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_on_the_page_is_there(folder):
    assert (ROOT / folder).is_dir()


def test_every_room_of_trainers_is_on_the_page():
    rooms = {path.parent.name for path in (ROOT / "trainers").glob("*/__init__.py")}
    assert rooms == {folder.split("/")[1] for folder in FOLDERS if folder.startswith("trainers/")}


def test_the_root_of_trainers_holds_verbs_and_inputs_only():
    verbs = {verb.verb.replace("-", "_") for verb in VERBS}
    files = {path.stem for path in (ROOT / "trainers").glob("*.py")}
    assert files - verbs == {"__init__", "commands", "inputs"}


@pytest.mark.parametrize("row", re.findall(r"^\| [^|]+ \| `([\w/]+)` \| `([\w.]+)` \|$", PAGE, re.MULTILINE))
def test_every_kind_of_variant_has_its_folder(row):
    folder, base = row
    kind = resolve(base)
    assert issubclass(kind, Registered)
    assert kind.registry.folder == folder.replace("/", ".")
    assert variants(kind)


FRAMES = """
import sys, traceback
import topgraft, trainers.fitting.step as step
made = step.step_of

def counting(*arguments, **named):
    inner = made(*arguments, **named)
    def counted(*values):
        names = [f.name for f in traceback.extract_stack() if f.filename.startswith(sys.argv[1])]
        print("FRAMES", *names, file=sys.stderr)
        return inner(*values)
    return counted

step.step_of = counting
sys.exit(topgraft.main(sys.argv[2:]))
"""


def test_five_frames_lie_between_the_command_and_the_step(tiny_path, tmp_path):
    from tests.tiny import rows, write_csv

    write_csv(tmp_path / "train.csv", rows(40, seed=0))
    words = ["train", "text_classification", "--workdir", "run", "--quiet", "--set", f"backbone={tiny_path}"]
    words += ["--set", f"data.train={tmp_path / 'train.csv'}", "--set", "data.test=", "--set", "epochs=1"]
    words += ["--set", "plan.stages=all", "--set", "data.max_tokens=48"]
    command = [sys.executable, "-c", FRAMES, str(ROOT), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    frames = next(line for line in done.stderr.splitlines() if line.startswith("FRAMES")).split()[1:]
    assert frames == ["main", "call", "train", "steps", "fit"]
