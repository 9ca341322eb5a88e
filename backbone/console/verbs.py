"""Verbs of the console command, and the options that several of them share.

    @dataclass(frozen=True, kw_only=True)
    class Profile(OfGraft, OnBackbone, InPrecision, Verb, verb="profile"):
        plot: str | None = option(None, "file for the roofline plot (SVG)")

        def call(self) -> object:
            '''Profiles one prediction of a graft.'''

The fields are the options, and `call` does the work. The first line of its docstring is the verb's help text. Each
package lists its verbs in `commands`, whose import must be cheap: `call` imports what the work needs.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from backbone.console.options import add_fields, argument, check, option, required
from backbone.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb with the options that all of them have."""

    verb: ClassVar[str]  # what people type: "train", or "registry show"
    former: ClassVar[Mapping[str, str]] = {}  # earlier verbs, refused with a message that gives the present call

    json: bool = option(False, "print one JSON object as the last line of stdout")
    quiet: bool = option(False, "show no progress bars, and log warnings only")

    def __init_subclass__(cls, *, verb: str = "", former: Mapping[str, str] | None = None, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if verb:
            cls.verb, cls.former = verb, former or {}

    def __post_init__(self) -> None:
        check(self)

    @property
    def show(self) -> bool:
        """Returns True if progress bars are wanted."""
        return not self.quiet

    def call(self) -> object:
        """Does the work and returns its result: a dataclass, or plain JSON values."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OfGraft:
    """The graft that a verb reads."""

    graft: str = argument("graft folder")


@dataclass(frozen=True, kw_only=True)
class OnBackbone:
    """The backbone below a graft."""

    backbone: str | None = option(None, "backbone folder (default: the one used in training)")


@dataclass(frozen=True, kw_only=True)
class InPrecision:
    """The precision of a backbone."""

    precision: str = option(
        "",
        "precision of the backbone: float32, bfloat16 or int8 (default: the graft's; for a server the recorded one)",
        former="dtype",
    )


@dataclass(frozen=True, kw_only=True)
class IntoFolder:
    """The folder that a verb writes."""

    out: str = required("new folder to write")


def add_verb(verbs: Any, verb: type[Verb], name: str = "") -> None:
    """Adds the parser of a verb to argparse's `verbs`; the parsed namespace holds the class as `verb`.

    Its name there is the last word of the verb, unless another is given.
    """
    text = inspect.cleandoc(verb.call.__doc__ or "")
    parser: argparse.ArgumentParser = verbs.add_parser(
        name or verb.verb.split()[-1], help=text.splitlines()[0], description=text
    )
    add_fields(parser, verb)
    parser.set_defaults(verb=verb)
    for former, call in verb.former.items():  # without a help text it is in no list
        gone = verbs.add_parser(former, add_help=False)
        gone.has_verbs = True  # no option is unknown to it
        gone.add_argument("rest", nargs="...", action=_Former, call=call)


class _Former(argparse.Action):
    """Everything behind a former verb."""

    def __init__(self, *arguments: Any, call: str, **settings: Any):
        super().__init__(*arguments, **settings)
        self.present = call

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise InputError(f"{parser.prog}: has another name now; use `topgraft {self.present}`")
