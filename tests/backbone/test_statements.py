"""A class statement that does not fit its base: one error there, that names class and part."""

from __future__ import annotations

import re

import pytest

from adapters.heads.head import Head
from adapters.methods.method import Method
from backbone.errors import InputError
from backbone.variants.registered import VARIANTS, variant, variants
from backbone.variants.scripts import run_script
from trainers.data.formats.format import Format
from trainers.freezing.schedule import Schedule

IMPORTS = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from adapters.heads.columns import OneLabel
from adapters.heads.classification import Classification
from adapters.heads.head import Head, RowHead
from adapters.methods.lora import Lora
from adapters.methods.method import FeatureMethod, SiteMethod
from backbone.families.family import Family
from backbone.network.sites import LINEAR, NORM, SUBLAYER
from serving.server.endpoint import Endpoint, Protocol
from trainers.data.formats.format import Format
from trainers.freezing.schedule import Schedule

"""

FIELDS = "    sites: tuple[str, ...] = ('mlp/*',)\n    blocks: str = ''\n"
INIT = "    def init(self, site, setting, rng): ...\n"

FAULTS = [
    ("(RowHead, tag='a'): pass", "metrics, column, loss, probabilities, decide, counts are missing"),
    ("(Classification, tag='a'): column = OneLabel", "column: OneLabel is a class; write OneLabel(), an instance"),
    ("(Classification, tag='a'): column = 'label'", "column: expected LabelColumn, got 'label'"),
    ("(Classification, tag='a'): supports = frozenset({'retrian'})", "'retrian' is unknown; nearest: retrain"),
    ("(Classification, tag='a'): supports = ('pairs',)", "supports: expected a frozenset, got ('pairs',)"),
    ("(Classification, tag='a'): suports = frozenset()", "nearest: supports"),
    ("(Classification, tag='a'): metrics = 'accuracy'", "metrics: expected a tuple, got 'accuracy'"),
    ("(Classification, tag='a'): output = 'number'", "output: 'number' is unknown; known: probabilities, value"),
    ("(Classification, tag='a'): gamma = 2.0", "gamma = 2.0 is no part of it, and no setting, since it has no type"),
    ("(Classification, tag='a'): dropout = 0.1", "dropout = 0.1 has no type, so the default of Classification stays"),
    (
        "(Classification, tag='a'):\n    def loss(self, *given): ...",
        "host_loss is missing: that of Classification computes",
    ),
    ("(Lora, tag='a'): rank = 4", "rank = 4 has no type, so the default of Lora stays; write rank: TYPE = ..."),
    (f"(SiteMethod, tag='a'):\n{FIELDS}", "init is missing"),
    (f"(SiteMethod, tag='a'):\n{INIT}", "the field sites is missing; add it, or override groups"),
    (f"(SiteMethod, tag='a'):\n{FIELDS}{INIT}", "before or after is missing: it does nothing at attention/query"),
    (
        f"(SiteMethod, tag='a'):\n    kinds = (*LINEAR, *NORM)\n{FIELDS}{INIT}    def after(self, *given): ...",
        "norm is missing: it does nothing at attention/norm, mlp/norm",
    ),
    (f"(SiteMethod, tag='a'):\n{FIELDS}{INIT}    def before(self, *given): ...", "changes_input is missing"),
    ("(FeatureMethod, tag='a'):\n    def taps(self, encoder): ...", "width, init, features are missing"),
    ("(Schedule, tag='a'): pass", "spans is missing"),
    ("(Schedule, tag='a'):\n    signal = 'gradient'\n    def spans(self, shape): ...", "decide is missing"),
    ("(Format, tag='a'):\n    suffixes = '.a'\n    records = len", "suffixes: expected a tuple, got '.a'"),
    ("(Format, tag='a'):\n    sufixes = ('.a',)\n    def records(self, *given): ...", "nearest: suffixes"),
    ("(Protocol, tag='a'): pass", "endpoints is missing"),
    ("(Protocol, tag='a'): endpoints = (Endpoint,)", "Endpoint is a class; write Endpoint(), an instance"),
    ("(Family, tag='a'): qkv = ('q', 'k', 'v')", "task_prefix, ignored, block, names, spec are missing"),
]


@pytest.mark.parametrize(("statement", "message"), FAULTS)
def test_a_fault_names_file_class_and_part(statement, message, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(f"{IMPORTS}class A{statement}")
    with pytest.raises(InputError, match=re.escape(f"{file}: class A: ") + ".*" + re.escape(message)):
        run_script(file)
    for base in (Method, Head, Schedule, Format):
        assert "a" not in variants(base), "it is not registered"


SOUND = """
class Shared(RowHead):
    '''A base of a user's own; it is no variant, so it may lack parts.'''

    FACTOR: ClassVar[float] = 2.0
    _cached = None


@dataclass(frozen=True)
class A(Shared, tag='a'):
    metrics = ("accuracy",)
    column = OneLabel()
    gamma: float = 2.0
    loss = probabilities = decide = counts = lambda self, *given: None
"""


@pytest.fixture
def forgotten():
    yield
    for base in (Head, Schedule):
        for tag in ("a", "slow"):
            base.registry.variants.pop(tag, None)
            base.registry.files.pop(tag, None)


@pytest.mark.usefixtures("forgotten")
def test_a_sound_statement_with_constants_of_its_own(tmp_path):
    (tmp_path / "own.py").write_text(IMPORTS + SOUND)
    script = run_script(tmp_path / "own.py")
    assert variant(Head, "a") is script.A
    assert (script.A().gamma, script.A.FACTOR) == (2.0, 2.0)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("decorator", ["", "@dataclass\n"])
def test_fields_need_the_decorator_of_a_frozen_dataclass(decorator, tmp_path):
    body = f"{decorator}class Slow(Schedule, tag='slow'):\n    k: int\n    def spans(self, shape): ...\n"
    (tmp_path / "slow.py").write_text(IMPORTS + body)
    run_script(tmp_path / "slow.py")
    with pytest.raises(InputError, match=r"slow\.py: class Slow: k is no field without @dataclass\(frozen=True\)"):
        variants(Schedule)


def test_a_script_with_a_fault_says_so_and_a_working_one_what_it_defines(tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text(IMPORTS + "class A(RowHead, tag='a'): pass")
    (tmp_path / "good.py").write_text(IMPORTS + "class A(Classification, tag='a'): pass")
    monkeypatch.chdir(tmp_path)
    for named, message in (
        ("bad.py", r"^TOPGRAFT_VARIANTS: bad\.py: .*bad\.py: class A: metrics, .* are missing"),
        ("none.py", r"^TOPGRAFT_VARIANTS: none\.py: FileNotFoundError: .*; paths are relative to the working folder, "),
        ("no_module", r"^TOPGRAFT_VARIANTS: no_module: ModuleNotFoundError: .*; modules are looked for in PYTHONPATH"),
        ("good.py", r"'b' is unknown.*; name it in TOPGRAFT_VARIANTS; good\.py, which it names, defines kind=a$"),
    ):
        monkeypatch.setenv(VARIANTS, named)
        with pytest.raises(InputError, match=message.replace("; name it", "; .*name it")):
            variant(Head, "b")
    del Head.registry.variants["a"], Head.registry.files["a"]
