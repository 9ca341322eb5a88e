"""The front door: `topgraft.load(...)` in Python, and the console command `topgraft VERB`.

    import topgraft
    graft = topgraft.load("runs/banking77/graft")
    graft.predict(["I am still waiting on my card?"])[0].label

The command parses a verb and calls one function of the package that has the verb in its `commands`. Logs and progress
go to stderr. With `--json` the last line of stdout is one JSON object. Exit status: 0 done, 2 bad input or config, 75
somebody else was faster (`registry`), 1 anything else; `retrain` has further ones.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.console.log_lines import LogLines, Repeats, json_line, message_lines, one_line, printable
from backbone.console.options import Parser, filled
from backbone.console.verbs import Verb, add_verb
from backbone.errors import InputError, Stopped
from backbone.ownership import require_own
from backbone.records import encode
from backbone.texts import require_unicode
from registry.entries import RegistryError
from serving.server import ending

if TYPE_CHECKING:
    from adapters.graft import Graft
    from adapters.routing import RoutedGrafts
    from backbone.storage import Backbone

__all__ = ["InputError", "load", "load_router", "main"]

log = logging.getLogger("topgraft")


def load(path: str | Path, backbone: str | Path | Backbone | None = None, *, precision: str = "") -> Graft:
    """Loads and verifies a graft: `.predict(texts)` gives labels and probabilities, `.logits(texts)` scores.

    `backbone` is a folder or a loaded backbone to share. By default it is the one used in training, or one in
    `TOPGRAFT_HOME` with the same weights; `precision` is a tag of `backbone.precisions`, by default the one that the
    graft was trained in. Raises InputError (a ValueError) for anything damaged or mismatched.
    """
    require_own("adapters")
    from adapters.graft import load_graft

    return load_graft(path, backbone, precision=precision)


def load_router(
    path: str | Path, grafts: Mapping[str, str | Path] | None = None, backbone: str | Path | Backbone | None = None
) -> RoutedGrafts:
    """Loads and verifies a router with its grafts: `.predict(texts)` answers each text by the graft that fits it.

    `grafts` gives the folder of a task's graft, by default the one that the router was made from; `backbone` is as in
    `load`. Raises InputError (a ValueError) for anything damaged or mismatched.
    """
    require_own("adapters")
    from adapters.routing import load_router as loaded

    return loaded(path, grafts, backbone)


class FrontDoor(Parser):
    """The parser of the whole command. `search show` is a verb of two words beside the verb `search`."""

    two_words: tuple[str, ...] = ()  # verbs of two words whose first word is a verb too

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        named = " ".join(words[:2])
        return super().parse_known_args([named, *words[2:]] if named in self.two_words else words, namespace)


def parser() -> Parser:
    """Returns the parser of the command. Each verb is a dataclass, and its options are the fields."""
    require_own("adapters")
    import adapters.commands
    import backbone.commands
    import registry.commands
    import serving.commands
    import trainers.commands

    command = FrontDoor(prog="topgraft", description="Graft task adapters onto a frozen backbone.")
    command.two_words = tuple(verb.verb for verb in trainers.commands.VERBS if " " in verb.verb)
    verbs = command.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    for package in (backbone.commands, trainers.commands, serving.commands, adapters.commands, registry.commands):
        for verb in package.VERBS:
            add_verb(verbs, verb, verb.verb)
    of_registry = verbs.add_parser("registry", help=registry.commands.HELP, description=registry.commands.HELP)
    actions = of_registry.add_subparsers(required=True, metavar="ACTION")
    for action in registry.commands.ACTIONS:
        add_verb(actions, action)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the console command and returns its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        for number, word in enumerate(words, 1):
            require_unicode(word, f"argument {number}")
        namespace = parser().parse_args(words)
    except InputError as error:
        return _failed(str(error), "", 2, as_json="--json" in words)
    _log_to_stderr(namespace)
    try:
        verb: Verb = filled(namespace.verb, namespace)
        result = verb.call()
    except InputError as error:
        status, message = 2, str(error)
    except Stopped as error:
        status, message = error.exit_status, str(error)
    except RegistryError as error:
        status, message = error.exit_status, str(error)
    except OSError as error:  # a full disk, or a folder without permission to write; the message names the file
        log.debug("%s", namespace.verb.verb, exc_info=True)
        status, message = 1, str(error)
    else:
        _print(result, as_json=verb.json)
        return int(getattr(result, "exit_status", 0))
    return _failed(message, f"topgraft {namespace.verb.verb}: ", status, as_json=bool(namespace.json))


def run() -> None:
    """Runs the console script and ends the process."""
    # read when NumPy is imported: the closed forms are small, and a second thread spins longer than it computes
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.argv[1:2] == ["serve"]:  # before anything slow is imported: process 1 ignores a signal that nobody handles
        ending.catch_signals_of_process()
    sys.exit(main())


def _log_to_stderr(namespace: argparse.Namespace) -> None:
    """Sends logs to stderr: warnings of every library, and without `--quiet` the messages of our packages."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLines())
    handler.addFilter(Repeats())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("topgraft", "backbone", "adapters", "trainers", "registry", "serving"):
        logging.getLogger(name).setLevel(logging.WARNING if namespace.quiet else logging.INFO)


def _failed(message: str, prefix: str, status: int, *, as_json: bool) -> int:
    """Prints an error to stderr, as JSON also to stdout, and returns its exit status."""
    print(message_lines(f"{prefix}{message}"), file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message, "exit": status}))
    return status


def _print(result: Any, *, as_json: bool) -> None:
    """Prints a result: as one JSON object, as text, as its table, or as nested names and values."""
    values = encode(result) if is_dataclass(result) else result
    if as_json:
        print(json_line(json.dumps(values, ensure_ascii=False)))
    elif isinstance(result, str):
        print(printable(result))
    elif hasattr(result, "table"):
        print(printable(result.table()))
    else:
        _show(values)


def _show(values: Any, indent: str = "") -> None:
    """Prints nested names and values; a mapping without entries is left out."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict) and value:
            print(one_line(f"{indent}{key}:"))
            _show(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                _show(item, indent)
                print()
        elif isinstance(value, list) and len(value) > 10 and isinstance(value[0], list):
            print(f"{indent}{key}: {len(value)} x {len(value[0])} numbers, see --json")
        elif value != {}:
            text = _rounded(value) if isinstance(value, float) else value
            text = ", ".join(map(str, text)) if isinstance(text, (list, tuple)) else text
            print(one_line(f"{indent}{key}: {text}"))


def _rounded(value: float) -> str:
    """Returns a number with four decimals, or with three digits where these would all be zeros."""
    return f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:.4f}"


if __name__ == "__main__":
    run()
