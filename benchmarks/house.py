"""Counts that describe the code and its documents, for one tree or beside an earlier one.

    python -m benchmarks.house [--root PATH] [--json FILE] [--before JSON]

Production code is `topgraft.py` and `PACKAGES`. A function runs from its `def` to its last line, nested ones included.

- An `isinstance` test belongs to methods, heads or schedules if its second argument names a class of that kind, also
  through a module's tuple or union. The classes are those at the top of the files in `HOMES`, the members of
  `MethodSpec` and `HeadSpec`, and `BASES`. Tests inside the kind's own files do not count.
- A docstring begins with a verb in the third person if its first word has letters only, ends in "s", not "ss", and is
  not in `NOUNS`; no verb stands before "of", a dtype or a shape. A word that may be either (`EITHER`, as "Counts")
  is a verb unless a word of `AFTER_NOUNS`, a participle in "-ed" or nothing follows.
- A field is an annotated name in a class body; its comment is the one on its last line.
- A filler is a name of `FILLERS` that is bound: by assignments, loops, `with`, fields, parameters.
- A sentence ends at a full stop, question or exclamation mark before a space, or with its paragraph or list item. Code
  in backticks is one word. Fenced code, tables, headings, HTML and what has fewer than three words are left out.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
import statistics
import subprocess
import tokenize
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import parsed

PACKAGES = ("backbone", "adapters", "trainers", "registry", "serving", "metering")
HOMES = {
    "methods": ("adapters/methods/", "adapters/specs.py"),
    "heads": ("adapters/heads/", "adapters/heads.py", "adapters/specs.py"),
    "schedules": ("trainers/freezing/",),
}
UNIONS = {"methods": "MethodSpec", "heads": "HeadSpec"}
BASES = {"methods": {"SiteMethod", "FeatureMethod", "Method"}, "heads": {"Head"}, "schedules": {"Schedule"}}
FILLERS = ("found", "told", "asked", "own", "wanted", "held", "begun", "aside")
BOUND = re.compile(r"(?<![\w-])(?:--)?((?:most|least)[_-][a-z_-]+)")
NOUNS = """always arrays as axis basis batches bias boundaries bytes classes columns corpus degrees differences epochs
    errors examples factors features fields files folders gradients heads ids indices its joules keys kernels lines
    logits losses methods metrics micro-batches options parameters paths pixels plus positions probabilities programs
    rows schedules seconds sequences settings sites specs status stages targets tasks tensors texts this thus tokens
    values versions whereas words yes zeros"""
EITHER = """answers audits blocks bounds copies counts estimates fits groups labels leaves limits links logs maps marks
    masks means measures names numbers orders pairs parts patches places plans points pools probes profiles promises
    queues ranges ranks rates records reports requests results runs samples scales scores sets shapes shares sizes
    sources splits spreads states steps sums tags tests turns updates views weights"""
AFTER_NOUNS = """after and as at before behind below beside between by done for from in into of on or over per read
    since than that through to under until where whose with within without"""
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|al|vs|cf|approx|resp|fig|eq|[a-z])\.$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A file of production code."""

    path: str  # relative to the root
    lines: int
    tree: ast.Module
    comments: dict[int, str]  # by line, without the hash sign

    def nodes(self, *kinds: type[ast.AST]) -> list[Any]:
        """Lists the nodes of these kinds by line."""
        return sorted((n for n in ast.walk(self.tree) if isinstance(n, kinds)), key=lambda n: getattr(n, "lineno", 0))


def read_sources(root: Path) -> list[Source]:
    """Reads the production code."""
    sources = []
    for path in [root / "topgraft.py", *sorted(p for name in PACKAGES for p in (root / name).rglob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        name, lines = path.relative_to(root).as_posix(), len(text.splitlines())
        sources.append(Source(name, lines, ast.parse(text), comments_of(text)))
    return sources


def comments_of(text: str) -> dict[int, str]:
    """Reads the comments of a file by line, without the hash sign."""
    tokens = tokenize.generate_tokens(iter(text.splitlines(keepends=True)).__next__)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def fillers_bound(source: Source) -> list[tuple[int, str]]:
    """Lists the fillers that a file binds, each with its line."""
    names = [(n.lineno, n.id) for n in source.nodes(ast.Name) if isinstance(n.ctx, ast.Store)]
    names += [(n.lineno, n.arg) for n in source.nodes(ast.arg)]
    return sorted((line, name) for line, name in names if name in FILLERS)


@dataclass(frozen=True)
class Fault:
    """A place that breaks a rule for words."""

    line: int
    rule: str  # verb, filler, of
    text: str  # first line of the docstring, name, or comment
    path: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


def word_faults(source: Source) -> list[Fault]:
    """Lists by line the docstrings without a verb, the fillers, and the fields' comments that begin with "of"."""
    faults = [Fault(line, "filler", name, source.path) for line, name in fillers_bound(source)]
    for node in source.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text and not begins_with_verb(text):
            faults.append(Fault(node.body[0].lineno, "verb", text.splitlines()[0], source.path))
    for line in (line for node in source.nodes(ast.ClassDef) for line in node.body if isinstance(line, ast.AnnAssign)):
        comment = source.comments.get(line.end_lineno or 0, "")
        if comment.startswith("of "):
            faults.append(Fault(line.lineno, "of", comment, source.path))
    return sorted(faults, key=lambda fault: fault.line)


def class_names(node: ast.AST | None) -> set[str]:
    """Names the classes in a tuple, a union, or alone."""
    if isinstance(node, ast.Tuple):
        return set().union(*map(class_names, node.elts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return class_names(node.left) | class_names(node.right)
    return {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()


def tests_of_kinds(sources: list[Source]) -> dict[str, list[str]]:
    """Finds the `isinstance` tests for methods, heads and schedules outside of their own files."""
    groups, classes = {}, {kind: set(names) for kind, names in BASES.items()}
    for source in sources:
        kinds = [kind for kind, homes in HOMES.items() if source.path.startswith(homes)]
        for line in source.tree.body:
            if isinstance(line, (ast.Assign, ast.AnnAssign)) and isinstance(line.value, (ast.Tuple, ast.BinOp)):
                target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0]
                groups |= {name: class_names(line.value) for name in class_names(target)}
            if isinstance(line, ast.ClassDef) and source.path != "adapters/specs.py":  # there the unions tell
                for kind in kinds:
                    classes[kind].add(line.name)
    for kind, union in UNIONS.items():
        classes[kind] |= groups.get(union, set())
    tests: dict[str, list[str]] = {kind: [] for kind in HOMES}
    for where, call in ((source.path, call) for source in sources for call in source.nodes(ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id == "isinstance" and len(call.args) == 2:
            names = class_names(call.args[1])
            names |= set().union(*(groups.get(name, set()) for name in names))
            for kind, homes in HOMES.items():
                if names & classes[kind] and not where.startswith(homes):
                    tests[kind].append(f"{where}:{call.lineno} {ast.unparse(call)}")
    return tests


def begins_with_verb(docstring: str) -> bool:
    """Tells whether the first word is a verb in the third person, by the rule in the module's docstring."""
    word, following = (text.rstrip(",:;.") for text in (*docstring.split(maxsplit=2), "", "")[:2])
    word = word.lower()
    if not re.fullmatch(r"[a-z]+(-[a-z]+)?s", word) or word.endswith("ss") or word in NOUNS.split():
        return False
    if following == "of" or re.match(r"\[|u?int\d|float\d", following):
        return False
    return word not in EITHER.split() or not re.fullmatch(rf"|\w+ed|{'|'.join(AFTER_NOUNS.split())}", following)


def sentences(text: str) -> list[str]:
    """Splits a document in Markdown into the sentences of its running text."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *([|<#].*|[-=*]{3,} *)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^[ >]*([-*+]|\d+\.) +", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"(`+).+?\1", "Code", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    split: list[list[str]] = []
    for paragraph in re.split(r"\n\s*\n", text):
        split.append([])
        for word in paragraph.split():
            split[-1] += [word] if re.search(r"\w", word) else []
            if re.search(r"[.!?][)\"'*_\]]*$", word) and not ABBREVIATION.search(word):
                split.append([])
    return [" ".join(words) for words in split if len(words) > 2]


def sentence_lengths(texts: list[str]) -> dict[str, float]:
    """Summarises words a sentence."""
    words = sorted(len(text.split()) for text in texts)
    p95 = words[math.ceil(0.95 * len(words)) - 1]
    return {"median": statistics.median(words), "p95": p95, "longest": words[-1], "sentences": len(words)}


def code_counts(sources: list[Source]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Takes the counts of the code, and lists what they are made of."""
    functions = [(s, node) for s in sources for node in s.nodes(ast.FunctionDef, ast.AsyncFunctionDef)]
    sizes = {f"{s.path}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1 for s, node in functions}
    folders = Counter(Path(source.path).parent.as_posix() for source in sources)
    biggest, longest = max(sources, key=lambda source: source.lines), max(sizes, key=lambda name: sizes[name])
    counts: dict[str, Any] = {
        "production files": len(sources),
        "production lines": sum(source.lines for source in sources),
        "most files in a folder": "{1} {0}".format(*folders.most_common(1)[0]),
        "longest file": f"{biggest.lines} {biggest.path}",
        "functions": len(functions),
        "longest function": f"{sizes[longest]} {longest}",
        "mean lines of a function": round(statistics.mean(sizes.values()), 2),
    }
    tests = tests_of_kinds(sources)
    counts |= {f"isinstance of {kind}": len(places) for kind, places in tests.items()}
    counts["isinstance, all three"] = len([place for places in tests.values() for place in places])
    subscripts = Counter(ast.unparse(node) for source in sources for node in source.nodes(ast.Subscript))
    counts |= {text: subscripts[text] for text in ("dict[str, Any]", "Mapping[str, Any]")}
    docstrings = [text for _, node in functions if (text := ast.get_docstring(node))]
    verbs = Counter(text.split()[0] for text in docstrings if begins_with_verb(text))
    others = Counter(text.split()[0] for text in docstrings) - verbs  # exact but for words that are both
    counts |= {"function docstrings": len(docstrings), "  with a verb first": verbs.total()}
    counts["  share"] = f"{verbs.total() / max(1, len(docstrings)):.1%}"
    bodies = [(source, node.body) for source in sources for node in source.nodes(ast.ClassDef)]
    fields = [(source, line) for source, body in bodies for line in body if isinstance(line, ast.AnnAssign)]
    comments = [source.comments.get(line.end_lineno, "") for source, line in fields]
    counts |= {"fields": len(fields), "  with a comment": sum(map(bool, comments))}
    counts['  with one that begins with "of"'] = sum(text.startswith("of ") for text in comments)
    fillers = Counter(name for source in sources for _, name in fillers_bound(source))
    counts |= {"fillers bound": fillers.total()} | {f"  {name}": fillers[name] for name in FILLERS}
    public = {ast.unparse(line.target) for _, line in fields} | {node.name for _, node in functions}
    public |= {node.arg for source in sources for node in source.nodes(ast.arg)}
    public |= {str(node.value) for source in sources for node in source.nodes(ast.Constant)}
    public = {match[1].replace("-", "_") for match in map(BOUND.fullmatch, public) if match}
    texts = [ast.unparse(source.tree) + "\n".join(source.comments.values()) for source in sources]
    words = Counter(word.replace("-", "_") for text in texts for word in BOUND.findall(text))
    counts |= {"names most_ and least_": len(public), "  words in all": sum(words[name] for name in public)}
    counts |= {f"  {name}": words[name] for name in sorted(public, key=lambda name: (-words[name], name))}
    first = {"verbs": dict(verbs.most_common()), "others": dict(others.most_common())}
    return counts, {"isinstance": tests, "files in folders": dict(folders.most_common()), "first words": first}


def document_counts(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Takes the counts of the documents, and shows each one's longest sentence."""
    documents = [root / "README.md", *sorted((root / "docs").glob("*.md")), root / "benchmarks" / "README.md"]
    split = {p.relative_to(root).as_posix(): sentences(p.read_text(encoding="utf-8")) for p in documents}
    longest = {name: max(texts, key=lambda text: len(text.split())) for name, texts in split.items() if texts}
    split["all documents"] = [text for texts in split.values() for text in texts]
    return {name: sentence_lengths(texts) for name, texts in split.items() if texts}, {"longest sentences": longest}


def commit_of(root: Path) -> str:
    """Names the commit of the tree, with `+` where tracked files other than results differ; empty outside of git."""
    git = ["git", "-C", str(root)]
    name, changed = (
        subprocess.run([*git, *command], capture_output=True, text=True).stdout.strip()
        for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results"))
    )
    return name + ("+" if changed else "")


def cell(value: Any) -> str:
    """Formats a count for the table."""
    if isinstance(value, dict):
        return "{sentences} sentences, median {median:g} words, p95 {p95}, longest {longest}".format(**value)
    return "-" if value is None else str(value)


def main() -> None:
    """Prints the table, and writes the counts where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the tree to count")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--before", type=Path, help="counts of an earlier tree, shown beside these")
    options, provenance = parsed(parser)
    root = options.root.resolve()
    (counts, details), (of_documents, longest) = code_counts(read_sources(root)), document_counts(root)
    result = {"benchmark": "house", "commit": commit_of(root), "date": datetime.now(UTC).date().isoformat()}
    result |= {"provenance": asdict(provenance), "counts": counts | of_documents, "details": details | longest}
    both = [json.loads(options.before.read_text(encoding="utf-8"))] if options.before else []
    both.append(result)
    labels = dict.fromkeys(label for one in reversed(both) for label in one["counts"])
    table = [("", *(one["commit"][:7] or "no commit" for one in both))]
    table += [(label, *(cell(one["counts"].get(label)) for one in both)) for label in labels]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for kind, places in details["isinstance"].items():
        print(f"\nisinstance of {kind}:", *(places or ["none"]), sep="\n  ")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
