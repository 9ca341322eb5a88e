"""What README and docs tell people to type is typed here, on small files, with the real backbone.

Every block of every kind is run or checked; a kind that nobody knows fails. Files and commands of docs/extending.md are
for a tree with more variants: tests/test_extending.py. Examples for schedulers: tests/test_retraining_page.py.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import runpy
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

import topgraft
from backbone.console.options import filled
from backbone.exchange.importing import minilm_folder
from backbone.records import decode
from serving.bank import Envelope
from tests.adapters.test_classifier import fine_tune
from tests.families import config_of
from tests.tiny import write_csv
from tests.tiny_images import write_folder
from trainers.data.docstrings import collect
from trainers.pretraining.config import BackboneConfig

ROOT = Path(__file__).resolve().parents[1]
GOLDENS = ROOT / "tests" / "goldens" / "families"
DOCUMENTS = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\S+\.(?:py|toml))\n")  # first line of a block that is a file, with its name
FOR_SCHEDULERS = ("cron", "yaml", "py")  # of docs/retraining.md, and checked by tests/test_retraining_page.py
# commands that read large public data and take hours: their options and configs are read, and nothing is run
HOURS = ("train-backbone text_mlm --workdir runs/text_mlm", "train-backbone vit_small", "train trec6", "train mnist")
FAR = "s3://"  # begin of an address that the documents make up; what lies there is tests/test_object_stores.py
SMALL = ("--buckets", "16", "--batch-sizes", "1", "--slots", "2")  # of a server, so that it compiles little
PATIENCE = 240.0  # seconds
PROCESSOR = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}


@pytest.fixture(scope="module")
def docstrings() -> list[tuple[str, str]]:
    """Collected once, since reading the standard library takes seconds; all of one length bucket, to compile little."""
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    both = [row for row in collect() if row[1] in ("asyncio", "email")]
    return [row for row in both if 9 <= len(tokenizer.encode(row[0]).ids) <= 12]


@pytest.fixture
def pictures(tmp_path) -> None:
    """A published ViT and photos, as docs/training.md names them."""
    folder = tmp_path / "vit-folder"
    folder.mkdir()
    tensors = load_file(GOLDENS / "vit.safetensors")
    save_file({n: v for n, v in tensors.items() if not n.startswith("states.")}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of("vit")))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    for split, count in (("train", 30), ("test", 5)):
        write_folder(tmp_path / "photos" / split, count, seed=count)
    for name, chosen in (("one.png", "red"), ("two.jpg", "green")):
        (tmp_path / name).write_bytes((tmp_path / "photos" / "test" / chosen / "0.png").read_bytes())


@pytest.fixture
def published(tmp_path) -> None:
    """A full fine-tune, as docs/using.md names it."""
    fine_tune(tmp_path / "fine-tune", "Sequence")


@pytest.fixture
def prepared(docstrings, pictures, published, tmp_path, monkeypatch, shared_data) -> None:
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
    Path("configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("")
    for name in ("words.bio", "test_words.bio"):
        (tmp_path / name).write_text("fly O\nto O\nnew B-city\nyork I-city\n\nin O\nparis B-city\n\n" * 20)


def commands(kind: str, block: str, variables: dict[str, str]) -> Iterator[list[str]]:
    """The words of each command, with variables and patterns filled in; other lines of `console` blocks are output."""
    for line in block.replace("\\\n", " ").splitlines():
        if kind == "console" and not line.startswith("$ "):
            continue
        for part in re.split(r"\s&&\s", re.sub(r"\$(\w+)", lambda m: variables[m[1]], line.removeprefix("$ "))):
            words = shlex.split(part, comments=True)
            if words and words[0] == "export":
                name, _, value = words[1].partition("=")
                variables[name] = value
            elif words:
                yield [
                    each for word in words for each in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
                ]


class Typist:
    """Types the commands of a document; a server runs until the requests behind its command are answered."""

    def __init__(self, monkeypatch, capsys):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def type(self, lines: list[list[str]]) -> None:
        while lines:
            words = lines.pop(0)
            with self._monkeypatch.context() as patch:
                while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    patch.setenv(*words.pop(0).split("=", 1))
                if words[:2] == ["topgraft", "serve"] and not any(word.startswith(FAR) for word in words):
                    requests = []
                    while lines and lines[0][0] == "curl":
                        requests.append(lines.pop(0))
                    self.serve(words[1:], requests)
                else:
                    self.run(words)

    def run(self, words: list[str]) -> None:
        if words[0] == "make":
            assert f"\n{words[1]}: " in (ROOT / "Makefile").read_text(), words
        elif words[:2] == ["pip", "install"]:
            assert words[-1] == "." or f"{words[-1]}==" in (ROOT / "Makefile").read_text(), words
        elif words[0] == "python":
            with self._monkeypatch.context() as patch:
                patch.setattr(sys, "argv", words[1:])
                runpy.run_path(words[1], run_name="__main__")
        else:
            assert words[0] == "topgraft", words
            if any(word.partition("=")[2].startswith(FAR) or word.startswith(FAR) for word in words):
                topgraft.parser().parse_args(words[1:])
                return
            if " ".join(words[1:]).startswith(HOURS):
                options = topgraft.parser().parse_args(words[1:])
                verb = filled(options.verb, options)
                assert verb.load(BackboneConfig) if words[1] == "train-backbone" else verb.config()
                return
            status = topgraft.main(words[1:])
            assert status == 0, f"{shlex.join(words)}\n{self._capsys.readouterr().err}"

    def serve(self, words: list[str], requests: list[list[str]]) -> None:
        """Serves in this thread; another one sends the requests, and the signal that ends the server."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ended, answers = threading.Event(), []

        def ask() -> None:
            try:
                with httpx.Client(timeout=PATIENCE) as client:
                    deadline = time.monotonic() + PATIENCE
                    while not ended.is_set() and time.monotonic() < deadline:
                        try:
                            client.get(f"http://127.0.0.1:{port}/v2/health/ready").raise_for_status()
                            break
                        except httpx.HTTPError:
                            time.sleep(0.05)
                    answers.append(client.get(f"http://127.0.0.1:{port}/tasks"))
                    answers.extend(curl(client, request, port) for request in requests)
            finally:
                if not ended.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            status = topgraft.main([*words, *SMALL, "--port", str(port)])
        finally:
            ended.set()
            thread.join()
        assert status == 0, f"{shlex.join(words)}\n{self._capsys.readouterr().err}"
        assert len(answers) == 1 + len(requests), self._capsys.readouterr().err
        assert answers[0].json()["tasks"], "a server without any task"
        for request, answer in zip(requests, answers[1:], strict=True):
            assert answer.status_code == 200, f"{shlex.join(request)}\n{answer.text}"


def curl(client: httpx.Client, words: list[str], port: int) -> httpx.Response:
    """What `curl -s ADDRESS -d BODY` would be answered."""
    assert (words[1], words[3], words[2].partition("/")[0]) == ("-s", "-d", "localhost:8080"), words
    return client.post(f"http://127.0.0.1:{port}/{words[2].partition('/')[2]}", content=words[4])


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "docs/extending.md"])
def test_the_blocks_of_a_document_run(document, prepared, capsys, monkeypatch):
    if document == "README.md":  # its reader has config scripts
        blocks = BLOCK.findall((ROOT / "docs" / "governance.md").read_text(encoding="utf-8"))
        Path("configs/topics.py").write_text(next(block for _, block in blocks if FILE.match(block)))
    names: dict[str, object] = {}
    variables: dict[str, str] = {}
    typist = Typist(monkeypatch, capsys)
    for kind, block in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")):
        if named := FILE.match(block):
            Path(named[1]).write_text(block)
        elif kind == "python":
            if "class Labels(Protocol" in block:  # `labels.py` of docs/serving.md, which its server loads
                Path("labels.py").write_text(block)
            else:
                exec(compile(block, document, "exec"), names)
        elif kind in ("sh", "console"):
            typist.type(list(commands(kind, block, variables)))
        elif kind == "csv":
            known = io.StringIO(Path("train.csv").read_text(encoding="utf-8"))
            assert next(csv.reader(io.StringIO(block))) == next(csv.reader(known))
        elif kind == "json":
            decode(Envelope, json.loads(block))
        elif kind == "text":
            printed = capsys.readouterr().out.splitlines()
            for field in (line.partition(":")[0] for line in block.splitlines() if not line.startswith(" ")):
                assert any(line.startswith(f"{field}:") for line in printed), field
        else:
            assert kind in FOR_SCHEDULERS, f"{document}: nobody runs a block of the kind {kind!r}"
            assert document == "docs/retraining.md"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), target
