"""Variants that register themselves: tags, folders, users' own files, records."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from backbone.errors import InputError
from backbone.records import Raw, decode, encode
from backbone.registered import Registered, own_file, variant, variants


class Shape(Registered, by="kind", folder="backbone.families"):
    """A base of variants; its folder only has to be importable."""


@dataclass(frozen=True)
class Square(Shape, tag="square"):
    """A variant with a field."""

    side: float = 1.0


@dataclass(frozen=True)
class Cube(Square, tag="cube"):
    """A variant of a variant, with the same fields."""


@dataclass(frozen=True)
class Drawing:
    """A record that holds any variant."""

    shape: Shape


@pytest.mark.parametrize("shape", [Square(2.0), Cube(3.0)])
def test_a_record_holds_the_tag_first_and_gives_back_the_variant(shape):
    values = encode(Drawing(shape))
    assert list(values["shape"]) == ["kind", "side"]
    again = decode(Drawing, values)
    assert again == Drawing(shape)
    assert type(again.shape) is type(shape)


def test_text_alone_is_a_tag_with_its_defaults():
    assert decode(Drawing, {"shape": Raw("cube")}) == Drawing(Cube())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "squar"}, "shape.kind: 'squar' is unknown; nearest: square.*TOPGRAFT_VARIANTS"),
        ({"side": 1.0}, "shape.kind: missing"),
        ({"kind": "cube", "edge": 1.0}, "shape.edge: no such field in Cube; nearest: side"),
        (3, "shape: expected a table with kind=..., got 3"),
    ],
)
def test_what_names_no_variant_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        decode(Drawing, {"shape": value})


def test_tags_are_found_by_base_and_sorted():
    assert list(variants(Shape)) == ["cube", "square"]
    assert variant(Shape, "cube") is Cube
    assert Square.tag == Square.kind == "square"


def test_a_second_file_cannot_take_a_tag_and_the_same_file_can_run_again(tmp_path):
    body = "from tests.backbone.test_registered import Square\nclass Star(Square, tag={!r}): pass\n"
    for name, tag in (("own.py", "star"), ("again.py", "star"), ("taken.py", "cube")):
        (tmp_path / name).write_text(body.format(tag))
    first = tmp_path / "own.py"
    space: dict = {}
    for _ in range(2):
        exec(compile(first.read_text(), str(first), "exec"), space)
    assert variant(Shape, "star") is space["Star"]
    assert own_file(space["Star"]) == str(first)
    for name, other in (("again.py", first), ("taken.py", __file__)):
        path = tmp_path / name
        with pytest.raises(InputError, match=rf"{name} defines it, but .*{other.name if name == 'again.py' else ''}"):
            exec(compile(path.read_text(), str(path), "exec"), {})
    del Shape.registry.variants["star"], Shape.registry.files["star"]


def test_an_environment_variable_names_scripts_that_define_variants(tmp_path, monkeypatch):
    script = tmp_path / "mine.py"
    script.write_text("from tests.backbone.test_registered import Shape\nclass Dot(Shape, tag='dot'): pass\n")
    with pytest.raises(InputError, match="'dot' is unknown"):
        variant(Shape, "dot")
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(script))
    assert variant(Shape, "dot").tag == "dot"
    del Shape.registry.variants["dot"], Shape.registry.files["dot"]
    script.write_text("1/0\n")
    with pytest.raises(InputError, match=r"TOPGRAFT_VARIANTS: .*mine.py:1: ZeroDivisionError"):
        variant(Shape, "dot")


def test_annotations_of_a_script_are_known_after_it_has_run(tmp_path, monkeypatch):
    """Under `from __future__ import annotations` a type is text, evaluated in its module when a field is decoded."""
    script = tmp_path / "later.py"
    script.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import Literal\n"
        "from tests.backbone.test_registered import Shape\n\n"
        "@dataclass(frozen=True)\nclass Ring(Shape, tag='ring'):\n    side: Literal['in', 'out'] = 'in'\n"
    )
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(script))
    assert decode(Shape, {"kind": "ring", "side": "out"}).side == "out"
    del Shape.registry.variants["ring"], Shape.registry.files["ring"]


def test_a_lazy_module_is_imported_by_the_first_look():
    code = (
        "import sys; from backbone.lazy import jnp; assert 'jax' not in sys.modules; "
        "assert float(jnp.ones(()).sum()) == 1; assert 'jax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
