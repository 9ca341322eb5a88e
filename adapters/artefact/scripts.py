"""The scripts that define a graft's own variants, where one is missing, fails, or has changed. Imports no jax.

The manifest keeps their names (`training.variants`: file name by tag). Without them a whole graft cannot be read, so
the messages name the script and its remedy. No message calls such a graft damaged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from backbone.errors import InputError
from backbone.variants.registered import VARIANTS, UnknownVariant, VariantsError, named_variants

FAULTS = (UnknownVariant, VariantsError)  # errors of a script, not of the graft


class ChangedVariant(VariantsError):
    """A variant that is another than the one that a graft was made with."""


def missing(error: UnknownVariant, where: str, scripts: Mapping[str, str]) -> UnknownVariant:
    """Returns the error for a tag that this process does not know; it names the script, if that is known."""
    if error.tag not in scripts:
        return UnknownVariant(f"{where}: {error}", error.tag)
    message = (
        f"{where}: {error.tag!r} is no variant of Topgraft: {scripts[error.tag]} defined it where the graft was made; "
        f"import that file first, or name it in {VARIANTS}{named_variants()}"
    )
    return UnknownVariant(message, error.tag)


def changed(problem: str, scripts: Mapping[str, str], *, certain: bool = True) -> ChangedVariant:
    """Returns the error for a script that no longer defines what the graft was made with."""
    names = " and ".join(f"{file}, which defines {tag}," for tag, file in sorted(scripts.items()))
    verb = ("has" if len(scripts) == 1 else "have") if certain else "may have"
    return ChangedVariant(
        f"{problem}; the graft is whole, but {names} {verb} changed since the graft was made; "
        f"name the file as it was then in {VARIANTS}"
    )


@contextlib.contextmanager
def own_code(where: str, scripts: Mapping[str, str]) -> Iterator[None]:
    """Turns what the code of own variants raises in the block into ChangedVariant; without any, nothing is turned."""
    try:
        yield
    except FAULTS:
        raise
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a user's code raises
        if not scripts:
            raise
        problem = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise changed(problem if problem.startswith(where) else f"{where}: {problem}", scripts) from error
