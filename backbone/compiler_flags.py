"""Flags of the compiler without which a version of jaxlib computes wrong results, added to `XLA_FLAGS`.

jaxlib 0.10.2 on a CPU gets sums under `vmap` wrong (jax#39103). Its fusions of reductions are left out by the flag
below; 0.10.0, 0.10.1 and 0.11.0 to 0.11.2 give the right sum without. jax reads `XLA_FLAGS` when its backend starts, so
`backbone/__init__.py` calls this first of all. Child processes inherit the variable. Imports no jax.
"""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "XLA_FLAGS"
NEEDED = {"0.10.2": "--xla_cpu_experimental_ynn_fusion_type=-reduce"}  # flag by version of jaxlib


def add_needed() -> None:
    """Appends the flag that this jaxlib needs, unless that very flag is named, or jax has started already."""
    flag, present = needed(), present_flags()
    if flag and not names(present, flag) and not _started():
        os.environ[VARIABLE] = f"{present} {flag}".strip()


def needed() -> str:
    """Returns the flag that this version of jaxlib needs; "" for none."""
    return NEEDED.get(jaxlib_version(), "")


def names(flags: str, flag: str) -> bool:
    """Returns whether `flags` hold the flag, with whatever value."""
    return any(word.partition("=")[0] == flag.partition("=")[0] for word in flags.split())


def present_flags() -> str:
    """Returns the flags of the environment; as for XLA, a value that begins with no dash names a file of flags."""
    value = os.environ.get(VARIABLE, "").strip()
    if not value or value.startswith("-"):
        return value
    try:
        return Path(value).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def jaxlib_version() -> str:
    """Returns the version of the installed jaxlib, without its import or that of importlib.metadata; "" for none."""
    spec = find_spec("jaxlib")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        try:
            text = (Path(folder) / "version.py").read_text(encoding="utf-8")
        except OSError:
            continue
        if match := re.search(r"^_version = [\"']([\w.+]+)[\"']", text, re.MULTILINE):
            return match[1]
    return ""


def remedy() -> str:
    """Returns what to do where the compiler gives wrong results in spite of this module."""
    flag, present = needed(), present_flags()
    if flag and flag not in present.split():
        name = flag.partition("=")[0]
        if names(present, flag):
            return f"take {name} out of {VARIABLE}: Topgraft adds {flag}, which jaxlib {jaxlib_version()} needs"
        return f"import topgraft before jax computes anything, or set {VARIABLE}={flag}"
    version = f"jaxlib {jaxlib_version()}"
    if present not in ("", flag):
        return (
            f"try without flags (env -u {VARIABLE} topgraft machine); if that is no better, another one than {version}"
        )
    return f"install another one than {version}; constraints.txt names one that was tested"


def _started() -> bool:
    """Returns whether jax has read its flags."""
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # there is no public way to ask without starting it

    return bool(xla_bridge.backends_are_initialized())
