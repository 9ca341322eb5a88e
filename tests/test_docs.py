"""What README and docs tell people to type is typed here, on small files, with the real backbone.

Files and commands of docs/extending.md are for a tree with more variants: tests/test_extending.py.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import topgraft
from backbone.importing import minilm_folder
from tests.tiny import write_csv
from trainers.data.docstrings import collect

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """Command lines with continuations joined and comments dropped; installations and make are left out."""
    lines = block.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words and words[0] == "topgraft"]


@pytest.fixture(scope="module")
def docstrings() -> list[tuple[str, str]]:
    """Collected once, since reading the standard library takes seconds; all of one length bucket, to compile little."""
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    both = [row for row in collect() if row[1] in ("asyncio", "email")]
    return [row for row in both if 9 <= len(tokenizer.encode(row[0]).ids) <= 12]


@pytest.fixture
def prepared(docstrings, tmp_path, monkeypatch, shared_data) -> None:
    """The files that the documents speak of."""
    monkeypatch.setenv("TOPGRAFT_DATA", str(shared_data))
    kinds = {label: [row for row in docstrings if row[1] == label][:40] for label in ("asyncio", "email")}
    table = [row for rows in kinds.values() for row in rows]
    write_csv(tmp_path / "train.csv", table[::2])
    write_csv(tmp_path / "test.csv", table[1::2])
    (tmp_path / "texts.txt").write_text("Return the loop.\nParse a header.\n")
    one_line = [(" ".join(text.split()), label) for text, label in table]
    both = list(zip(one_line, one_line[20:] + one_line[:20], strict=True))
    pairs = [f"{a}\t{b}\t{int(x == y)}\t{i}" for i, ((a, x), (b, y)) in enumerate(both)]
    for name, chosen in (("pairs.tsv", pairs[::2]), ("test_pairs.tsv", pairs[1::2])):
        (tmp_path / name).write_text("\n".join(["first\tsecond\tlabel\tscore", *chosen]))
    for name in ("words.bio", "test_words.bio"):
        (tmp_path / name).write_text("fly O\nto O\nnew B-city\nyork I-city\n\nin O\nparis B-city\n\n" * 20)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "docs/extending.md"])
def test_the_commands_of_a_document_run(document, prepared, capsys):
    names: dict[str, object] = {}
    for kind, block in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(block, document, "exec"), names)
            continue
        for words in commands(block):
            status = topgraft.main(words[1:])
            assert status == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), target
