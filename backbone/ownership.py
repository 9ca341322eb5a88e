"""Refuses to run when another distribution has overwritten one of our packages.

AdapterHub's `adapters` installs into the folder of our `adapters`. The files that pip wrote last win, silently. A
marker in the package's `__init__` tells whose folder it is.
"""

from __future__ import annotations

import importlib


def require_own(package: str) -> None:
    """Raises ImportError if the importable package of that name is not Topgraft's."""
    module = importlib.import_module(package)
    if getattr(module, "TOPGRAFT", None) != package:
        raise ImportError(
            f"the package {package!r} at {getattr(module, '__file__', '?')} is not Topgraft's: another distribution "
            f"(AdapterHub's 'adapters' uses the same folder) has overwritten it. Never install both in one "
            f"environment: pip uninstall {package}, then reinstall topgraft, or use a fresh environment."
        )
