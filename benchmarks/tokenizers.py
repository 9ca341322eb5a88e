"""Ids of imported tokenizers beside those of transformers' `AutoTokenizer`, on 500 strings.

    python -m benchmarks.tokenizers --peers .venv-peers/bin/python [--random 300] [--seed 16]

Two kinds of folders are compared: those of `tests/published_tokenizers.py`, of every family and kind, with the packaged
MiniLM; and folders whose files and settings are drawn at random. A folder is equal, or differs in some strings, or one
side refuses it. Folders whose class cannot hold their model are counted apart: transformers then reads the pieces of
one model as those of another, and an import takes tokenizer.json as it is and says so.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.exchange.importing import minilm_folder, read_tokenizer
from backbone.exchange.tokenizer_files import ROLES
from benchmarks.results import ROOT, parsed, write
from tests import published_tokenizers as published
from tests.families import TEXT, family_of

MODELS = {"bert": "words", "distilbert": "words", "roberta": "bytes", "xlm-roberta": "pieces", "modernbert": "bytes"}
CLASSES = (
    *("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizer", "RobertaTokenizer"),
    *("RobertaTokenizerFast", "XLMRobertaTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"),
)
FLAGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "trim_offsets")
TEXTS = published.strings()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares, prints a table, and writes `results/tokenizers.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=".venv-peers/bin/python", help="Python with transformers")
    parser.add_argument("--random", type=int, default=300, help="folders drawn at random")
    parser.add_argument("--seed", type=int, default=16)
    options, provenance = parsed(parser, arguments)
    with tempfile.TemporaryDirectory() as place:
        folders = [
            (f"{family}: {kind}", family, published.write_folder(Path(place) / f"kind{i}", family, kind))
            for i, (family, kind) in enumerate(published.FOLDERS)
        ]
        folders.append(("bert: the packaged MiniLM", "bert", minilm_folder()))
        draw = random.Random(options.seed)
        drawn = [draw.choice(TEXT) for _ in range(options.random)]
        for i, family in enumerate(drawn):
            folders.append(("random", family, write_random(Path(place) / f"random{i}", family, draw)))
        rows = [compared(*row) for row in zip(folders, theirs(options.peers, [f for *_, f in folders]), strict=True)]
    kinds = {row["kind"]: row["outcome"] | {"strings": 500} for row in rows if row["kind"] != "random"}
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["kind"] == "random":
            totals[row["family"]][row["outcome"]["result"]] += 1
    drawn_counts = {family: dict(sorted(counts.items())) for family, counts in sorted(totals.items())}
    summary = {
        "kinds": len(kinds),
        "kinds_that_differ": sum(kind["result"] != "equal" for kind in kinds.values()),
        "strings": sum(map(len, TEXTS.values())),
        "random": options.random,
        "random_that_differ": sum(counts["differs"] for counts in totals.values()),
        "random_equal": sum(counts["equal"] for counts in totals.values()),
    }
    content = {
        "summary": summary,
        "strings": {name: len(texts) for name, texts in TEXTS.items()},
        "cut": published.CUT,
        "kinds": kinds,
        "random": drawn_counts,
        "differences": [row["outcome"] | {"files": row["files"]} for row in rows if "first" in row["outcome"]],
    }
    print(json.dumps(summary, indent=1))
    print(write("tokenizers", content, provenance))


def theirs(python: str, folders: Sequence[Path]) -> list[Mapping[str, Any]]:
    """Returns transformers' answer for each folder."""
    texts = [text for some in TEXTS.values() for text in some]
    command = json.dumps({"folders": list(map(str, folders)), "texts": texts, "cut": published.CUT})
    script = ROOT / "benchmarks" / "peers" / "tokenizer_ids.py"
    done = subprocess.run([python, str(script)], input=command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"transformers' side failed: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def compared(place: tuple[str, str, Path], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the outcome for one folder."""
    kind, family, folder = place
    known, fields = family_of(family), json.loads((folder / "config.json").read_text())
    texts = [text for some in TEXTS.values() for text in some]
    names = sorted(path.name for path in folder.iterdir() if path.name.startswith(("token", "vocab", "special", "add")))
    result = {"kind": kind, "family": family, "files": names}
    try:
        made, notes = read_tokenizer(folder, fields, known, known.spec(fields, set()))
    except InputError as error:
        refused = "both refuse" if "error" in answer else "we refuse"
        return result | {"outcome": {"result": refused, "message": str(error).replace(str(folder), "FOLDER")[:160]}}
    if any("taken as it is" in note for note in notes):
        return result | {"outcome": {"result": "no such model in the class"}}
    if "error" in answer:
        return result | {"outcome": {"result": "they refuse", "message": answer["error"]}}
    ours = [row.tolist() for row in made.encode(texts, published.CUT)]
    differing = [text for text, a, b in zip(texts, ours, answer["ids"], strict=True) if a != b]
    if not differing:
        return result | {"outcome": {"result": "equal", "differ": 0}}
    return result | {"outcome": {"result": "differs", "differ": len(differing), "first": differing[0]}}


def write_random(folder: Path, family: str, draw: random.Random) -> Path:
    """Writes a folder with files and settings drawn at random."""
    folder.mkdir()
    model = MODELS[family] if draw.random() < 0.9 else draw.choice(("words", "bytes", "pieces"))
    special = published.SPECIAL if model == "words" else published.ANGLED
    make = {"words": published.word_file, "bytes": published.byte_file, "pieces": published.unigram_file}[model]
    file = make()
    if draw.random() < 0.3:
        file["normalizer"] = draw.choice([published.NFC, None, {"type": "NFKC"}])
    if draw.random() < 0.3:
        file["added_tokens"] = [token for token in file["added_tokens"] if draw.random() < 0.5]
    if draw.random() < 0.2:
        side = draw.choice(["Left", "Right"])
        file["truncation"] = {"direction": side, "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    files: dict[str, Any] = {"tokenizer.json": file}
    if draw.random() < 0.25 and model == "words":
        files = {"vocab.txt": published.lines(published.wordpieces())}
    elif draw.random() < 0.25 and model == "bytes":
        files = {"vocab.json": published.byte_pairs()[0], "merges.txt": published.merges_text()}
    if draw.random() < 0.7:
        files["tokenizer_config.json"] = random_settings(special, draw)
    if draw.random() < 0.3:
        chosen = [role for role in ROLES if draw.random() < 0.3]
        files["special_tokens_map.json"] = {role: random_token(special, draw) for role in chosen}
    if draw.random() < 0.2:
        files["added_tokens.json"] = {"<new>": 1500, "line": 1501}
    files["config.json"] = published.config(family)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).write_bytes(text.encode())
    return folder


def random_settings(special: Sequence[str], draw: random.Random) -> dict[str, Any]:
    """Draws the fields of a tokenizer_config.json."""
    settings: dict[str, Any] = {name: draw.random() < 0.5 for name in FLAGS if draw.random() < 0.35}
    if draw.random() < 0.5:
        settings["tokenizer_class"] = draw.choice(CLASSES)
    if draw.random() < 0.3:
        settings["truncation_side"] = draw.choice(["left", "right"])
    if draw.random() < 0.2:
        settings["model_max_length"] = draw.choice([512, 10**30, 64, published.CUT])
    for role in ROLES:
        if draw.random() < 0.15:
            token = random_token(special, draw)
            settings[role] = token if isinstance(token, str) else {"__type": "AddedToken", **token}
    if draw.random() < 0.3:
        names = [*special, "<new>", "line", "the x"]
        settings["added_tokens_decoder"] = {str(draw.randrange(900)): random_record(names, draw) for _ in range(3)}
    if draw.random() < 0.2:
        settings["additional_special_tokens"] = draw.sample(["<new>", "[NEW]", "xy", "line"], 2)
    return settings


def random_token(names: Sequence[str], draw: random.Random) -> Any:
    """Draws a special token: its name, or a record with flags."""
    return draw.choice(names) if draw.random() < 0.5 else random_record(names, draw)


def random_record(names: Sequence[str], draw: random.Random) -> dict[str, Any]:
    """Draws an added token with flags."""
    flags = {name: draw.random() < 0.5 for name in ("lstrip", "rstrip", "normalized", "single_word", "special")}
    return {"content": draw.choice(names), **flags}


if __name__ == "__main__":
    main()
