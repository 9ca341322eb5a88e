"""Results hold their provenance, and figures in the documents are those of the results.

Comments before a table or a paragraph name where its figures come from, in the order of reading:

    <!-- results/NAME.json: path/of/keys = 24.9; path/to/2/share = 92.5 % -->

A path's parts are keys or indices. `%` stands for a share times 100, `ms` for seconds times 1000, `G` for a value
divided by 1e9. The first column of a table and its links hold no figures. A quantity (a number with a unit of
measurement) that no comment names must be a setting or a limit, and stand in `NOT_MEASURED`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.results import Provenance
from metering.machine import Machine

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "benchmarks/README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"((?:^<!-- \S*results/\S+\.json: .* -->\n)+)\n?((?:^\|.*\n)+|(?:^[^\n<|#].*\n)+)", re.MULTILINE)
COMMENT = re.compile(r"^<!-- (\S+\.json): (.*) -->$", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?")
UNITS = "ms|s|seconds?|minutes?|hours?|points?|times|MB|GB|KB|megabytes?|GFLOP/s|GB/s|tokens/s|joules|J|watts|W"
QUANTITY = re.compile(rf"(?<![\w.,/=<-])[-+]?\d[\d,]*(?:\.\d+)?(?: ?%| (?:CPU )?(?:{UNITS})\b)")
NOT_MEASURED = {  # settings, limits and definitions, by document
    "README.md": {"0.2 s"},
    "benchmarks/README.md": {"30 minutes"},
    "docs/decisions.md": {"200 times", "10 %", "1,000 W"},
    "docs/training.md": {"200 times", "95 %", "1.2 times"},
    "docs/backbones.md": {"15 %", "80 %", "10 %", "40 %"},
    "docs/lean.md": {"95 %"},
    "docs/machines.md": {"15 %"},
    "docs/registry.md": {"30 seconds"},
    "docs/serving.md": {"99 %", "60 seconds"},
    "docs/using.md": {"2 GB"},
}
SCALES = {"": 1.0, "%": 100.0, "ms": 1e3, "G": 1e-9}


class Figure(NamedTuple):
    """A figure of a table and its place in a results file."""

    file: str
    path: str
    text: str  # as written, with commas between thousands
    unit: str  # key of `SCALES`


def figures(comments: str) -> list[Figure]:
    """Reads the comments before a table."""
    result = []
    for file, pairs in COMMENT.findall(comments):
        for pair in pairs.split("; "):
            path, written = pair.rsplit(" = ", 1)
            text, _, unit = written.partition(" ")
            result.append(Figure(file, path, text, unit))
    return result


def numbers(block: str) -> list[str]:
    """Lists the figures of a block.

    Of a table these are the numbers of its cells, without its first two lines, its first column and its links. Of a
    paragraph they are the numbers of its quantities.
    """
    if not block.startswith("|"):
        return [NUMBER.findall(quantity)[0] for quantity in QUANTITY.findall(block)]
    rows = [line.strip("|").split("|")[1:] for line in block.splitlines()[2:]]
    cells = [re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`", "", cell) for row in rows for cell in row]
    return [number for cell in cells for number in NUMBER.findall(cell)]


def unnamed(text: str) -> list[str]:
    """Lists the quantities of a document, outside of code, that no comment names."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return QUANTITY.findall(re.sub(r"`[^`]*`", "", BLOCK.sub("", text)))


def stored(folder: Path, figure: Figure) -> float:
    """Returns the value in the results file, in the figure's unit."""
    value = json.loads((folder / figure.file).read_text(encoding="utf-8"))
    for part in figure.path.split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return float(value) * SCALES[figure.unit]


def problems(text: str, folder: Path) -> list[str]:
    """Lists what differs between a document's tables, their comments and the results files."""
    result = []
    for comments, table in BLOCK.findall(text):
        described = figures(comments)
        written = [figure.text for figure in described]
        if written != numbers(table):
            result.append(f"the table has {numbers(table)}, its comments have {written}")
        for figure in described:
            decimals = len(figure.text.partition(".")[2])
            half = 0.5 * 10.0**-decimals
            value = stored(folder, figure)
            if not math.isclose(float(figure.text.replace(",", "")), value, rel_tol=1e-9, abs_tol=half * (1 + 1e-9)):
                result.append(f"{figure.file}: {figure.path} is {value}, the table has {figure.text}")
    return result


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_have_the_figures_of_the_results_files(document):
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    assert problems(text, path.parent) == []
    of_tables = [figure for comments, _ in BLOCK.findall(text) for figure in figures(comments)]
    assert of_tables == figures(text), "a comment is followed by no table or paragraph"
    assert not [figure.file for figure in of_tables if "former" in figure.file]
    assert set(unnamed(text)) <= NOT_MEASURED.get(document, set())


def test_results_hold_their_provenance():
    """Every raw line does, and every file of one process."""
    wanted = {field.name for field in fields(Provenance)}
    files = [path for path in (ROOT / "benchmarks" / "results").iterdir() if path.suffix in (".json", ".jsonl")]
    assert files, "no results"
    for path in files:
        text = path.read_text(encoding="utf-8")
        for record in map(json.loads, text.splitlines() if path.suffix == ".jsonl" else [text]):
            provenance = record["provenance"]
            assert set(provenance) == wanted, path
            assert set(provenance["machine"]) == {field.name for field in fields(Machine)}, path
            assert re.fullmatch("(right|wrong)-[0-9a-f]{12}", provenance["known_answers"]), path
            assert re.fullmatch("[0-9a-f]{40}", provenance["commit"]), path
            assert re.fullmatch("sha256:[0-9a-f]{64}", provenance["code"]), path


TABLE_OF_TWO = """<!-- results/a.json: seconds/0 = 24.9; share = 92.5 % -->

| task | here |
|---|---|
| 7 rows | 24.9 s, 92.5 % |
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("24.9", "24.9", []),
        ("24.9 s", "24.8 s", ["the table has ['24.8', '92.5'], its comments have ['24.9', '92.5']"]),
        ("24.9", "24.8", ["results/a.json: seconds/0 is 24.88, the table has 24.8"]),
        ("; share = 92.5 %", "", ["the table has ['24.9', '92.5'], its comments have ['24.9']"]),
        ("24.9 s, 92.5 %", "25 s, 92.5 %", ["the table has ['25', '92.5'], its comments have ['24.9', '92.5']"]),
    ],
    ids=["equal", "table", "both", "no comment", "rounded"],
)
def test_a_difference_is_reported(old, new, expected, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text(json.dumps({"seconds": [24.88], "share": 0.925}))
    assert problems(TABLE_OF_TWO.replace(old, new), tmp_path) == expected


def test_a_quantity_that_no_comment_names_is_seen():
    paragraph = TABLE_OF_TWO.partition("\n\n")[0] + "\nIt took 24.9 s for 92.5 %.\n"
    assert unnamed(paragraph) == []
    assert unnamed(paragraph + "\nAnother took 31 CPU s, or `5 s`, in 3 runs of 0.4 MB.\n") == ["31 CPU s", "0.4 MB"]
