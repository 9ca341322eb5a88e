"""Variants that register themselves: tags, folders, users' own files, records."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from backbone.errors import InputError
from backbone.records import Raw, decode, encode
from backbone.variants.registered import Registered, own_file, own_files, variant, variants


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


@pytest.fixture
def run(tmp_path):
    """Runs text as a file, in a namespace of its own or in a given one; its variants are forgotten afterwards."""
    before = dict(Shape.registry.variants)

    def run(body: str, name: str = "own.py", space: dict | None = None) -> dict:
        path = tmp_path / name
        text = f"from tests.backbone.test_registered import Shape, Square\n{body}\n"
        path.write_text(text)
        space = {"__name__": "__main__"} if space is None else space
        exec(compile(text, str(path), "exec"), space)
        return space

    yield run
    for tag in [tag for tag in Shape.registry.variants if tag not in before]:
        del Shape.registry.variants[tag], Shape.registry.files[tag]


def test_two_classes_of_one_file_cannot_share_a_tag_unless_the_file_has_changed(run):
    both = "class Dot(Shape, tag='dot'): pass\nclass Spot(Shape, tag='dot'): pass"
    with pytest.raises(
        InputError, match=r"own\.py: class Spot: kind=dot is the tag of class Dot there; choose another"
    ):
        run(both)
    renamed = run("class Spot(Shape, tag='dot'): pass")
    assert variant(Shape, "dot") is renamed["Spot"], "the file ran anew, and defines one class"


def test_a_cell_of_a_notebook_that_runs_again_replaces_its_class(run, tmp_path):
    space = run("class Dot(Shape, tag='dot'): pass", "111.py")
    first = space["Dot"]
    (tmp_path / "111.py").unlink()  # a cell is no file
    run("class Dot(Shape, tag='dot'):\n    'Edited.'", "222.py", space)
    assert variant(Shape, "dot") is space["Dot"] is not first
    with pytest.raises(InputError, match="class Spot: kind=dot is the tag of class Dot there"):
        run("class Spot(Shape, tag='dot'): pass", "333.py", space)


@pytest.mark.parametrize("tag", ["", "a.b", "a b", 3, "BigDot", "ä"])
def test_a_tag_is_a_text_of_small_letters(tag, run):
    with pytest.raises(InputError, match=rf"class BigDot: tag={tag!r}: expected a text of \[a-z0-9_\]\+; write tag='"):
        run(f"class BigDot(Shape, tag={tag!r}): pass")
    assert run("class BigDot(Shape, tag='big_dot_2'): pass")["BigDot"].tag == "big_dot_2"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("class Dot(Shape, tg='dot'): pass", r"class Dot: .* takes no keyword arguments; a variant takes tag="),
        ("class Dot(Square, by='kind', tag='dot'): pass", r"class Dot: by='kind' is for the base of a kind"),
    ],
)
def test_another_argument_of_the_class_statement_is_refused(statement, message, run):
    with pytest.raises(InputError, match=message):
        run(statement)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys\nsys.exit(0)", r"bad\.py:2: SystemExit: 0; it ends the process: put that under `if __name__"),
        ("class Mine(BaseException): pass\nraise Mine('no')", r"bad\.py:2: Mine: no; mend it, or leave it out"),
        ("import nowhere", r"bad\.py:1: ModuleNotFoundError: .*'nowhere'; modules are looked for beside the script"),
        ("x = (", r"bad\.py:1: SyntaxError: "),
    ],
)
def test_a_script_of_the_environment_that_fails_is_named_with_its_line(code, message, tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text(code)
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(tmp_path / "bad.py"))
    with pytest.raises(InputError, match=rf"^TOPGRAFT_VARIANTS: .*{message}"):
        variant(Shape, "dot")


def test_ctrl_c_while_a_script_runs_is_no_fault_of_the_script(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt")
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(tmp_path / "slow.py"))
    with pytest.raises(KeyboardInterrupt):
        variant(Shape, "dot")


@pytest.mark.usefixtures("run")
def test_a_script_imports_modules_by_former_names_while_it_runs(tmp_path, monkeypatch):
    (tmp_path / "old.py").write_text(
        "import trainers.experiment\nfrom trainers import policy\nfrom trainers.policy import Bound\n"
        "from tests.backbone.test_registered import Shape\nassert policy.Bound is Bound\n"
        "class Dot(Shape, tag='dot'): pass\n"
    )
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(tmp_path / "old.py"))
    assert variant(Shape, "dot").tag == "dot"
    import trainers

    assert not {"trainers.policy", "trainers.experiment"} & set(sys.modules)
    assert not hasattr(trainers, "policy")


BASE = """
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.backbone.test_registered import Shape


@dataclass(frozen=True)
class Round(Shape):
    how: Literal["in", "out"] = "in"
"""


@pytest.fixture
def beside(tmp_path):
    """Two folders with a script that imports a module beside it; both modules have one name."""
    for folder, tag in (("one", "dot"), ("two", "spot")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "round_shapes.py").write_text(BASE)
        (tmp_path / folder / "own.py").write_text(
            "from dataclasses import dataclass\nfrom round_shapes import Round\n\n"
            f"@dataclass(frozen=True)\nclass Own(Round, tag='{tag}'):\n    size: int = 1\n"
        )
    finders = list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = finders
    sys.modules.pop("round_shapes", None)


@pytest.mark.usefixtures("run")
def test_a_base_may_lie_in_a_module_beside_the_script(beside, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(beside / "one" / "own.py"))
    own = decode(Shape, {"kind": "dot", "how": "out"})
    assert (own.how, own.size) == ("out", 1)
    assert own_files(type(own)) == [str(beside / "one" / name) for name in ("own.py", "round_shapes.py")] + [__file__]
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(beside / "two" / "own.py"))
    message = r"two/own\.py: imports round_shapes, which is .*two/.* but .*one/round_shapes\.py is loaded.*; rename one"
    with pytest.raises(InputError, match=message):
        variant(Shape, "spot")


def test_annotations_of_a_base_in_a_script_that_has_ended_are_known(run):
    """The script is no module that could be imported: another script ran it."""
    base = run(BASE.replace("from __future__ import annotations", ""), "base.py")  # compiled with those of this file
    later = (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own(Round, tag='own'):\n    size: int = 1"
    )
    space = run(later, "later.py", {"__name__": "__main__", "Round": base["Round"]})
    assert decode(Shape, {"kind": "own", "how": "out"}) == space["Own"]("out")


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
