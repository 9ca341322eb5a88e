"""Options of the command line from the fields of a frozen dataclass: one declaration, one help text, one default.

    @dataclass(frozen=True, kw_only=True)
    class Query:
        graft: str = argument("graft folder")
        top: int = option(5, "probabilities shown for each text", min=1)

    add_fields(parser, Query)                        # graft, and --top with its default in the help
    query = filled(Query, parser.parse_args(words))  # Query(graft="runs/one/graft", top=5)

The type of a field says how its text is read. A tuple is read with commas between its items, or is repeated. A field
whose type is a dataclass contributes the options of that dataclass. Fields without a help text are no options.
`check(self)` in `__post_init__` applies the bounds to objects that Python code makes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from backbone.errors import InputError, nearest
from backbone.records import hints

T = TypeVar("T")

LARGEST = 2**63  # first number that no database and no array holds
KEY = "option"  # place of an Option in the metadata of a field


@dataclass(frozen=True)
class Option:
    """The declaration of a field beside its name, type and default."""

    help: str  # what the value is, for the help and for readers of the field
    name: str = ""  # name without dashes; "" takes that of the field
    metavar: str | None = None  # stand-in for the value in the help
    min: float | None = None  # smallest number accepted
    max: float | None = None  # greatest number accepted
    above: float | None = None  # number that every accepted number exceeds
    nonblank: bool = False  # text must hold more than spaces
    repeat: bool = False  # each item of a tuple has an option of its own
    positional: bool = False  # value without an option's name before it
    former: str = ""  # earlier name of the option, refused with a message that gives the present one


def option(default: Any, help: str, **settings: Any) -> Any:
    """Returns a field for the option `--name`; `settings` are fields of `Option`."""
    return dataclasses.field(default=default, metadata={KEY: Option(help, **settings)})


def required(help: str, **settings: Any) -> Any:
    """Returns a field for an option that must be given."""
    return dataclasses.field(metadata={KEY: Option(help, **settings)})


def argument(help: str, default: Any = MISSING, **settings: Any) -> Any:
    """Returns a field for a positional argument; one with a default may be left out."""
    return dataclasses.field(default=default, metadata={KEY: Option(help, positional=True, **settings)})


class Parser(argparse.ArgumentParser):
    """A parser that raises InputError where argparse would end the process, and accepts no shortened names.

    An unknown option is told before anything that may be missing because of it. The message names the nearest option.
    """

    has_verbs = False  # options belong to the parsers of the verbs

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise InputError(f"{self.prog}: {message}")

    def add_subparsers(self, **settings: Any) -> Any:
        self.has_verbs = True
        return super().add_subparsers(**settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        self._require_known(words)
        namespace, left = super().parse_known_args(words, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}; options stand behind their verb, values are quoted")
        return namespace, left

    def _require_known(self, words: Sequence[str]) -> None:
        """Raises InputError for an option that a verb does not have."""
        actions = self._option_string_actions
        for word in () if self.has_verbs else words:
            if word == "--":  # values follow
                return
            name = word.partition("=")[0]
            if not name.startswith("--") or " " in word or name in actions:
                continue
            known = [name for name, action in actions.items() if action.help != argparse.SUPPRESS and name != "-h"]
            if longer := [other for other in known if other.startswith(name)]:
                self.error(f"{name}: options may not be shortened; write {' or '.join(longer)}")
            self.error(f"{name}: no such option; {nearest(name, known)}")


def whole(min: float | None = None, max: float | None = None) -> Callable[[str], int]:
    """Returns an argparse type: a whole number from `min` to `max`."""
    bounds = "" if min is None else f", at least {min:g}" if max is None else f", {min:g} to {max:g}"

    def kind(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number{bounds}, got {text!r}") from None
        if (min is not None and value < min) or (max is not None and value > max):
            raise argparse.ArgumentTypeError(f"must be a whole number{bounds}, got {value}")
        if abs(value) >= LARGEST:
            raise argparse.ArgumentTypeError(f"must be a whole number below 2^63, got {value}")
        return value

    return kind


def number(min: float | None = None, max: float | None = None, above: float | None = None) -> Callable[[str], float]:
    """Returns an argparse type: a finite number, at least `min`, at most `max` and greater than `above`."""
    expected = "must be a finite number"
    if (min, max, above) != (None, None, None):
        low = f"[{min:g}" if min is not None else f"({-math.inf if above is None else above:g}"
        expected = f"must lie in {low}, {max:g}]" if max is not None else f"{expected} in {low}, inf)"

    def kind(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        too_low = (min is not None and value < min) or (above is not None and value <= above)
        if not math.isfinite(value) or too_low or (max is not None and value > max):
            raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
        return value

    return kind


def nonblank(text: str) -> str:
    """Returns the text stripped of surrounding space, as an argparse type that refuses blank text."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be blank; say it in a few words")
    return text.strip()


def listed(item: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Returns an argparse type: items with commas between, each of the type `item`; spaces around them are dropped."""

    def kind(text: str) -> tuple[T, ...]:
        return tuple(item(part.strip()) for part in text.split(",") if part.strip())

    return kind


@dataclass(frozen=True)
class Field:
    """One field that is an option, with its type taken apart."""

    name: str  # name of the field
    option: Option
    item: Any  # type of the value, or of an item of a tuple
    many: bool  # the value is a tuple
    default: Any  # MISSING for an option that must be given

    @property
    def words(self) -> str:
        """Returns the option's name with hyphens, without leading dashes."""
        return (self.option.name or self.name).replace("_", "-")

    @property
    def shown(self) -> str:
        """Returns the name as people type it: `--max-price`, or `graft` for a positional argument."""
        return self.words if self.option.positional else f"--{self.words}"

    @property
    def dest(self) -> str:
        """Returns the name of the value in argparse's namespace."""
        return self.words.replace("-", "_")

    @property
    def kind(self) -> Callable[[str], Any]:
        """Returns the argparse type of the value, or of one item of a tuple."""
        bounds = self.option
        if self.item is int:
            return whole(bounds.min, bounds.max)
        if self.item is float:
            return number(bounds.min, bounds.max, bounds.above)
        return nonblank if bounds.nonblank else str

    @property
    def choices(self) -> tuple[str, ...] | None:
        """Returns the values of a Literal; None for another type."""
        return get_args(self.item) if get_origin(self.item) is Literal else None

    @property
    def help(self) -> str:
        """Returns the help text, followed by the default where it says something."""
        text = self.option.help.replace("%", "%%")
        if self.item is bool:
            return f"do not {text}" if self.default else text
        if self.default in (MISSING, None, "", ()):
            return text
        items = self.default if self.many else (self.default,)
        default = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in items)
        return f"{text} (default: {default})"


def fields_of(cls: type) -> Iterator[Field]:
    """Yields the options among the fields of a dataclass, without those of nested dataclasses."""
    for field in dataclasses.fields(cls):
        if KEY not in field.metadata:
            continue
        kind = hints(cls)[field.name]
        if get_origin(kind) in (Union, types.UnionType):
            kind = next(member for member in get_args(kind) if member is not type(None))
        many = get_origin(kind) is tuple
        yield Field(field.name, field.metadata[KEY], get_args(kind)[0] if many else kind, many, field.default)


def nested(cls: type) -> Iterator[tuple[str, type]]:
    """Yields (name, class) of the fields whose type is a dataclass that has options."""
    for field in dataclasses.fields(cls):
        kind = hints(cls)[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and (any(fields_of(kind)) or any(nested(kind))):
            yield field.name, kind


def add_fields(parser: argparse.ArgumentParser, cls: type) -> None:
    """Adds the options of a dataclass to a parser, those of nested dataclasses last."""
    for field in fields_of(cls):
        _add(parser, field)
    for _, kind in nested(cls):
        add_fields(parser, kind)


def _add(parser: argparse.ArgumentParser, field: Field) -> None:
    """Adds one option. Its default stays in the dataclass: argparse says None for an option that is not given."""
    named: dict[str, Any] = {"help": field.help}
    if field.item is bool:
        flag = f"--no-{field.words}" if field.default else field.shown
        parser.add_argument(flag, dest=field.dest, action="store_const", const=not field.default, **named)
        return
    named["metavar"] = field.option.metavar
    if field.choices:
        named["choices"] = field.choices
    else:
        named["type"] = (
            listed(field.kind) if field.many and not (field.option.repeat or field.option.positional) else field.kind
        )
    if field.option.positional:
        optional = field.default is not MISSING
        parser.add_argument(field.dest, nargs="+" if field.many else "?" if optional else None, **named)
        return
    named["required"] = field.default is MISSING
    parser.add_argument(field.shown, dest=field.dest, action="append" if field.option.repeat else "store", **named)
    if field.option.former:
        parser.add_argument(
            f"--{field.option.former}", action=_Renamed, nargs="?", const=field.shown, help=argparse.SUPPRESS
        )


class _Renamed(argparse.Action):
    """A former name of an option."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise argparse.ArgumentError(self, f"has another name now; use {self.const}")


def filled(cls: type[T], namespace: argparse.Namespace) -> T:
    """Builds a dataclass from parsed options; what was not given keeps the default of its field."""
    values: dict[str, Any] = {}
    for field in fields_of(cls):
        value = getattr(namespace, field.dest)
        if value is not None:
            values[field.name] = tuple(value) if field.many else value
    for name, kind in nested(cls):
        values[name] = filled(kind, namespace)
    return cls(**values)


def check(instance: Any) -> None:
    """Raises InputError for a field of `instance` outside the bounds of its option; nested dataclasses check their own.

    Call it in `__post_init__`.
    """
    for field in fields_of(type(instance)):
        value = getattr(instance, field.name)
        items = value if field.many else () if value is None else (value,)
        for item in items:
            if field.choices and item not in field.choices:
                raise InputError(f"{field.shown}: must be one of {', '.join(field.choices)}, got {item!r}")
            try:
                field.kind(str(item))
            except argparse.ArgumentTypeError as error:
                raise InputError(f"{field.shown}: {error}") from None
