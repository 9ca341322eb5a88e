"""What the values of command-line options must be: kinds for argparse, and a parser that fails like all else here.

parser.add_argument("--max-suspects", type=whole(0))
parser.add_argument("--lease", type=number(above=0))
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import NoReturn

from backbone.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises InputError, where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise InputError(f"{self.prog}: {message}")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The kind of a whole number from `least` to `most`."""
    asked = f"at least {least}" if most is None else f"{least} to {most}"

    def kind(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, {asked}, got {text!r}") from None
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be a whole number, {asked}, got {value}")
        return value

    return kind


def number(*, least: float = -math.inf, above: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """The kind of a finite number: at least `least`, above `above`, at most `most`; never NaN."""
    low = f"({above:g}" if above >= least else f"[{least:g}"
    asked = f"must lie in {low}, {most:g}]" if math.isfinite(most) else f"must be a finite number in {low}, inf)"

    def kind(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most and value > above):
            raise argparse.ArgumentTypeError(f"{asked}, got {text!r}")
        return value

    return kind


def said(text: str) -> str:
    """The kind of words that a log needs: not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be blank; say it in a few words")
    return text.strip()
