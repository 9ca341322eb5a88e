"""A real data set that every machine has: docstrings of the Python standard library.

The task is to name the top-level package of a docstring in which the package's name is masked. The sources are
parsed, never imported. The quickstart and the tests use it.
"""

from __future__ import annotations

import ast
import csv
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from backbone.errors import InputError
from trainers.data.splits import normalise, unit_hash

MIN_ROWS = 60  # docstrings that make a package a class
MIN_WORDS = 3  # words that make a docstring a row
MASK = "MODULE"  # word in place of the package's name
_SKIPPED = {"site-packages", "test", "tests", "idle_test", "lib2to3", "turtledemo", "__pycache__", "ensurepip"}


def _parse(source: bytes) -> ast.Module:
    """Parses a module, and tries again after CPython's "recursion depth mismatch" (gh-106905, mended in 3.13).

    CPython raises it when garbage that is collected during the parse logs an exception: a traceback is rendered with
    `ast.parse` too. At the second try that garbage is gone.
    """
    try:
        return ast.parse(source)
    except SystemError:
        return ast.parse(source)


def _docstrings(file: Path) -> Iterator[str]:
    """Yields the docstrings of a file; none of a file that this Python cannot parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old modules
            tree = _parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and "\0" not in text:
                yield text


def collect() -> list[tuple[str, str]]:
    """Returns (text, package) rows without duplicates, of packages with at least `MIN_ROWS` of them, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    packages: dict[str, list[str]] = {}
    seen: set[str] = set()
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).parts
        if _SKIPPED & set(parts):
            continue
        package = parts[0].removesuffix(".py")
        name_of_package = re.compile(rf"(?<![A-Za-z0-9]){re.escape(package)}(?![A-Za-z0-9])", re.IGNORECASE)
        for text in _docstrings(file):
            masked = name_of_package.sub(MASK, text).strip()
            key = normalise(masked)
            if key not in seen and len(key.split()) >= MIN_WORDS:
                seen.add(key)
                packages.setdefault(package, []).append(masked)
    return sorted((text, name) for name, texts in packages.items() if len(texts) >= MIN_ROWS for text in texts)


def write_docstrings(folder: Path, test_fraction: float = 0.2) -> dict[str, int]:
    """Writes `train.csv` and `test.csv` (columns text, label), split by hash; returns the numbers of rows and classes.

    Raises InputError if the standard library's sources are not installed.
    """
    rows = collect()
    if not rows:
        raise InputError("this Python has no sources of its standard library, so there are no docstrings to learn from")
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"classes": len({label for _, label in rows})}
    test = [row for row in rows if unit_hash(row[0], "docstrings test") < test_fraction]
    chosen = set(test)
    for name, split in (("train", [row for row in rows if row not in chosen]), ("test", test)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *split])
        counts[name] = len(split)
    return counts


def baselines(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> dict[str, float]:
    """Returns the accuracy on `test` of the most frequent label, and of TF-IDF with logistic regression."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise InputError("baselines need scikit-learn: pip install 'topgraft[quickstart]'") from None
    labels = [label for _, label in train]
    majority = max(sorted(set(labels)), key=labels.count)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=200))
    model.fit([text for text, _ in train], labels)
    predicted = model.predict([text for text, _ in test])
    truth = [label for _, label in test]
    return {
        "majority": sum(label == majority for label in truth) / len(truth),
        "tfidf": sum(p == t for p, t in zip(predicted, truth, strict=True)) / len(truth),
    }
