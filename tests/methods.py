"""The examples of every registered method, with what its file in `tests/adapters/formulas` says of each."""

from __future__ import annotations

from adapters.methods.method import Method
from backbone.variants.registered import load_folder, variants

FORMULAS = {module.__name__.rsplit(".", 1)[-1]: module for module in load_folder("tests.adapters.formulas")}
METHODS = {tag: method.example() for tag, method in variants(Method).items()}
METHODS |= {name: method for module in FORMULAS.values() for name, method in getattr(module, "EXAMPLES", {}).items()}


def says(name: str, flag: str) -> bool:
    """Returns a flag of the method's file in tests/adapters/formulas; true unless the file denies it."""
    return getattr(FORMULAS.get(METHODS[name].tag), flag, True)


SITE = [name for name, method in METHODS.items() if method.acts_at_sites]
FEATURE = [name for name in METHODS if name not in SITE]
MERGEABLE = [name for name in SITE if says(name, "MERGEABLE")]
UNMERGEABLE = [name for name in SITE if name not in MERGEABLE]
WITH_DROPOUT = [name for name in SITE if hasattr(METHODS[name], "dropout")]
