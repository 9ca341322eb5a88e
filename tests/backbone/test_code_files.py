"""The code behind a user's variant: its file, and what that imports of the user's own."""

from __future__ import annotations

import hashlib

import pytest

from backbone.errors import InputError
from backbone.variants.code_files import code_files, code_hash, is_library


@pytest.fixture
def files(tmp_path):
    """A script whose helpers import one another in every way, and files beside it that it does not import."""
    (tmp_path / "tools" / "deep").mkdir(parents=True)
    for name, text in {
        "own.py": "import json\nimport numpy as np\nimport helper\nfrom adapters.specs import Lora\n\n\n"
        "def late():\n    from tools import parts\n",
        "helper.py": "from words import split\nimport helper\n",
        "words.py": "",
        "tools/__init__.py": "",
        "tools/parts.py": "from .more import x\nfrom .deep import leaf\n",
        "tools/more.py": "from . import last\n",
        "tools/last.py": "",
        "tools/deep/leaf.py": "from ..more import x\n",
        "unused.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_are_followed_from_file_to_file_and_libraries_left_out(files):
    reached = {file.removeprefix(f"{files}/") for file in code_files([str(files / "own.py")])}
    helpers = {"helper.py", "words.py"}
    package = {f"tools/{name}.py" for name in ("__init__", "parts", "more", "last", "deep/leaf")}
    assert reached == {"own.py"} | helpers | package


def test_the_hash_changes_with_each_file_that_is_reached_and_with_no_other(files):
    own = [str(files / "own.py")]
    before = code_hash(own)
    for name in ("words.py", "tools/last.py", "tools/deep/leaf.py", "unused.py"):
        text = (files / name).read_text()
        (files / name).write_text(text + "x = 1\n")
        assert (code_hash(own) == before) is (name == "unused.py"), name
        (files / name).write_text(text)
    assert code_hash(own) == before
    moved = files.rename(files.with_name("elsewhere"))
    assert code_hash([str(moved / "own.py")]) == before, "no path is part of it"


def test_one_file_alone_is_known_by_its_bytes_and_a_text_without_file_is_refused(files):
    assert code_hash([str(files / "words.py")]) == hashlib.sha256(b"").hexdigest()
    with pytest.raises(InputError, match="<stdin>, which is no file; define it in one, so that a change of its code"):
        code_hash(["<stdin>"])


def test_libraries_are_topgraft_the_standard_library_and_what_is_installed(files):
    import json

    import numpy

    assert all(map(is_library, (json.__file__, numpy.__file__, code_hash.__code__.co_filename)))
    assert not any(map(is_library, (__file__, files / "own.py")))
