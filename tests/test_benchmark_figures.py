"""Figures in the documents' tables equal those in the results files.

Comments before a table name where its figures come from, in the order of reading:

    <!-- results/NAME.json: path/of/keys = 24.9; path/to/2/share = 92.5 % -->

A path's parts are keys or indices. `%` stands for a share times 100, `ms` for seconds times 1000, `G` for a value
divided by 1e9. The first column of a table and its links hold no figures.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "benchmarks/README.md")
TABLE = re.compile(r"((?:^<!-- \S*results/\S+\.json: .* -->\n)+)\n?((?:^\|.*\n)+)", re.MULTILINE)
COMMENT = re.compile(r"^<!-- (\S+\.json): (.*) -->$", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?")
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


def numbers(table: str) -> list[str]:
    """Lists the numbers of a table's cells, without its first two lines, its first column and its links."""
    rows = [line.strip("|").split("|")[1:] for line in table.splitlines()[2:]]
    cells = [re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`", "", cell) for row in rows for cell in row]
    return [number for cell in cells for number in NUMBER.findall(cell)]


def stored(folder: Path, figure: Figure) -> float:
    """Returns the value in the results file, in the figure's unit."""
    value = json.loads((folder / figure.file).read_text(encoding="utf-8"))
    for part in figure.path.split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return float(value) * SCALES[figure.unit]


def problems(text: str, folder: Path) -> list[str]:
    """Lists what differs between a document's tables, their comments and the results files."""
    result = []
    for comments, table in TABLE.findall(text):
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
def test_tables_have_the_figures_of_the_results_files(document):
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    assert problems(text, path.parent) == []
    of_tables = [figure for comments, _ in TABLE.findall(text) for figure in figures(comments)]
    assert of_tables == figures(text), "a comment is followed by no table"


def test_the_table_of_what_it_costs_is_covered():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## What it costs\n")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert tables
    assert tables == [table for _, table in TABLE.findall(section)]


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
    ],
    ids=["equal", "table", "both", "no comment"],
)
def test_a_difference_is_reported(old, new, expected, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text(json.dumps({"seconds": [24.88], "share": 0.925}))
    assert problems(TABLE_OF_TWO.replace(old, new), tmp_path) == expected
