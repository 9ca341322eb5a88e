"""Fields of variants: records give back each type that is allowed, and the rest is refused where the class stands."""

from __future__ import annotations

import json
import re

import pytest

from backbone.errors import InputError
from backbone.records import Raw, decode, encode
from backbone.variants.registered import Registered, variants
from backbone.variants.scripts import run_script


class Figure(Registered, by="kind", folder="backbone.families"):
    """A base of variants; its folder only has to be importable."""


IMPORTS = """
from __future__ import annotations

import typing as t
from dataclasses import KW_ONLY, InitVar, dataclass, field
from enum import Enum
from pathlib import Path
from typing import *

import numpy as np

from tests.backbone.test_field_types import Figure

if TYPE_CHECKING:
    from fractions import Fraction

Size = NewType("Size", int)


class Mode(str, Enum):
    FAST = "fast"
    SURE = "sure"


class Level(Enum):
    LOW = 1


@dataclass(frozen=True)
class Inner:
    how: Literal["x", "y"] = "x"
    sizes: tuple[Size, ...] = (1,)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()


@dataclass
class Loose:
    size: int = 1


@dataclass(frozen=True)
class Hidden:
    size: int = field(default=1, init=False)


@dataclass(frozen=True)
class Bytes:
    content: bytes = b""

"""


@pytest.fixture
def define(tmp_path):
    """Runs a script that defines a variant with a field, and returns the class."""
    file = tmp_path / "own.py"

    def run(fields: str, decorator: str = "@dataclass(frozen=True)"):
        body = "".join(f"    {line}\n" for line in fields.split("; "))
        file.write_text(f"{IMPORTS}\n{decorator}\nclass Dot(Figure, tag='dot'):\n{body}")
        cls = run_script(file).Dot
        assert variants(Figure)["dot"] is cls, "the look-up finds what was defined last"
        return cls

    yield run
    Figure.registry.variants.clear()
    Figure.registry.files.clear()


@pytest.mark.parametrize(
    "fields",
    [
        "size: int = 3",
        "size: float = 3",
        "size: float | None = None",
        "size: Optional[float] = 2.5",
        "size: int | str = 'a'",
        "size: Annotated[int, 'pixels'] = 3",
        "size: Final[int] = 3",
        "size: Size = 3",
        "size: Literal[1, 'two', None] = 'two'",
        "size: tuple[int, float] = (1, 2.0)",
        "size: Tuple[tuple[str, int], ...] = (('a', 1),)",
        "size: int = field(default=3, kw_only=True)",
        "size: int = field(default=1, metadata={'json': 'edge'})",
        "size: float = np.float64(0.5)",
        "size: float = np.float32(0.5)",
        "mode: Mode = Mode.SURE",
        "modes: tuple[Mode, ...] = (Mode.SURE, Mode.FAST)",
        "inner: Inner = Inner('y')",
        "outers: tuple[Outer, ...] = (Outer(Inner(sizes=(4, 5))),)",
        "kind_of: Inner | None = None",
        "family: str = 'x'",
        "later: Later | None = None",
        "FACTOR: ClassVar[dict] = {}; size: int = 1",
        "FACTOR: t.ClassVar[dict] = {}; size: int = 1",
        "_: KW_ONLY; size: int = 1",
    ],
)
def test_a_field_that_records_hold_is_given_back(fields, define):
    if "Later" in fields:  # a class further down in the file
        fields += "; \n@dataclass(frozen=True)\nclass Later:\n    inner: Inner = Inner()\n"
    value = define(fields)()
    stored = json.loads(json.dumps(encode(value)))
    assert stored["kind"] == "dot"
    again = decode(Figure, stored)
    assert again == value
    assert hash(again) == hash(value)
    assert encode(again) == stored, "names of the script are known after it has ended"


def test_a_dataclass_with_slots_is_the_variant(define):
    cls = define("size: int = 3", "@dataclass(frozen=True, slots=True)")
    assert "__slots__" in vars(cls)
    assert type(decode(Figure, encode(cls(4)))) is cls


def test_an_enum_is_read_from_the_command_line_and_a_wrong_text_named(define):
    cls = define("mode: Mode = Mode.FAST")
    assert decode(Figure, {"kind": "dot", "mode": Raw("sure")}).mode is type(cls().mode).SURE
    with pytest.raises(InputError, match=r"shape\.mode: 'slow' is not one of fast, sure"):
        decode(Figure, {"kind": "dot", "mode": Raw("slow")}, "shape")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("size: list[int] = field(default_factory=list)", "size: list[int] is no type .* write tuple[T, ...]"),
        ("size: List[int] = field(default_factory=list)", "size: List[int] is no type .* write tuple[T, ...]"),
        ("size: tuple = (1, 2)", "size: tuple is no type .* write tuple[T, ...]"),
        (
            "size: dict[str, int] = field(default_factory=dict)",
            "dict[str, int] is no type .* tuple[tuple[str, T], ...]",
        ),
        ("size: set[int] = field(default_factory=set)", "size: set[int] is no type"),
        ("size: frozenset = frozenset()", "size: frozenset is no type .* write tuple[T, ...]"),
        ("size: bytes = b''", "size: bytes is no type .* write str"),
        ("size: complex = 1j", "size: complex is no type of a setting"),
        ("size: Any = 1", "size: Any is no type .* name the type"),
        ("size: np.ndarray = None", "size: ndarray is no type .* or ClassVar[...] for a constant"),
        ("size: Path = Path('x')", "size: Path is no type"),
        ("size: Callable = len", "size: Callable is no type"),
        ("size: tuple[bytes, ...] = ()", "size: bytes is no type"),
        ("size: int | bytes = 1", "size: bytes is no type"),
        ("size: InitVar[int] = 1", "size: dataclasses.InitVar[int] is no type"),
        ("size: Literal[b'x'] = b'x'", "size: Literal[b'x']: allowed in a Literal are texts, whole numbers and bools"),
        ("level: Level = Level.LOW", "level: the values of Level are no texts; allowed: .*; write Literal[...]"),
        ("mode: Mode | str = 'fast'", "Mode | str: a record does not tell these apart; .*; write one of them"),
        ("size: Inner | Outer = Inner()", "Inner | Outer: a record does not tell these apart"),
        ("size: Loose = None", "size: Loose is no frozen dataclass; write @dataclass(frozen=True) above it"),
        ("size: Hidden = Hidden()", "size: Hidden.size: a record could not set it"),
        ("size: Bytes = Bytes()", "size: Bytes.content: bytes is no type of a setting"),
        ("size: int = field(default=3, init=False)", "size: init=False: a record could not set it; write a property"),
        ("size: int = True", "size: its default: expected int, got True; mend it, or the type int"),
        ("size: int = None", "size: its default: expected int, got None; write int | None"),
        ("size: str = 3", "size: its default: expected str, got 3; mend it, or the type str"),
        ("size: float = float('nan')", "size: its default: must be a finite number, got nan"),
        ("size: tuple[int, int] = (1,)", "size: its default: expected 2 values, got (1,)"),
        ("kind: str = 'x'", "kind: no field may have this name, since records tell variants apart by it"),
        ("size: int = field(default=1, metadata={'json': 'kind'})", "size: no field may have this name"),
        ("tag: str = 'x'", "tag: no field may have this name"),
        ("registry: str = 'x'", "registry: no field may have this name"),
        (
            "size: Fraction = None",
            "its type Fraction is unknown when the file runs (NameError: .* outside `if TYPE_CHECK",
        ),
        ("size: Nothing = 1", "size: its type Nothing is unknown when the file runs (NameError: .*; allowed: str, int"),
    ],
)
def test_another_type_is_refused_by_class_and_field_with_what_to_write(fields, message, define):
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(InputError, match=rf"own\.py: class Dot: .*{pattern}"):
        define(fields)


def test_a_field_of_a_plain_dataclass_among_the_bases_is_checked_too(define, tmp_path):
    file = tmp_path / "mixed.py"
    file.write_text(f"{IMPORTS}\n@dataclass(frozen=True)\nclass Dot(Bytes, Figure, tag='dot'):\n    size: int = 1\n")
    with pytest.raises(InputError, match=r"mixed\.py: class Dot: content: bytes is no type of a setting"):
        run_script(file)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("class Dot(Figure)", "class Dot: has no tag, so no record can name it; write class Dot(Figure, tag='dot')"),
        (
            "class Dot(Figure, tag='dot'):\n    pass\nclass Other",
            "class Dot: is no dataclass, so no record can",
        ),
        ("class Dot(Figure, tag='dot')", "class Dot: size is no field without @dataclass(frozen=True) above the class"),
    ],
)
def test_a_value_without_tag_or_decorator_is_refused_when_it_is_stored(statement, message, define, tmp_path):
    file = tmp_path / "bare.py"
    decorator = "@dataclass(frozen=True)\n" if "tag" not in statement else ""
    file.write_text(f"{IMPORTS}\n{decorator}{statement}:\n    size: int = 1\n")
    with pytest.raises(InputError, match=re.escape(f"bare.py: {message}")):
        encode(run_script(file).Dot())
