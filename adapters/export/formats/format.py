"""The base of what `topgraft export` writes: one variant for each value of `--format`. Imports no jax.

    class Vllm(ExportFormat, tag="vllm"):
        about = "PEFT as vLLM reads it"

        def write(self, request: Request) -> object: ...

The options of the verb are the fields of `Request`. A format names those that it reads beside graft, backbone and
folder; the verb refuses the others where they are given.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from backbone.console.options import option
from backbone.console.verbs import InPrecision, IntoFolder, OfGraft, OnBackbone
from backbone.errors import InputError
from backbone.variants.registered import Registered, variants


@dataclass(frozen=True, kw_only=True)
class Request(OfGraft, OnBackbone, InPrecision, IntoFolder):
    """What to export, to which folder, and the options that single formats read."""

    buckets: tuple[int, ...] = option((), "jax: lengths in tokens, commas between (default: up to the longest input)")
    batch: int = option(8, "jax: rows of a call", min=1)
    profile: str = option("", "documents: file of `topgraft profile GRAFT --json`, for the energy of an answer")
    carbon_intensity: float | None = option(None, "documents: grams of CO2 equivalent for each kWh", min=0)
    embodied_training: float | None = option(
        None, "sci: grams of CO2 equivalent of the hardware in the training", min=0
    )
    embodied_query: float | None = option(None, "sci: grams of CO2 equivalent of the hardware in one answer", min=0)


COMMON = {field.name for base in (OfGraft, OnBackbone, IntoFolder) for field in dataclasses.fields(base)}


class ExportFormat(Registered, by="format", folder="adapters.export.formats", needs=("about", "write")):
    """One product of a graft for other software."""

    about: ClassVar[str]  # what it is, in a few words: the verb's help text
    reads: ClassVar[tuple[str, ...]] = ()  # fields of `Request` that it reads beside graft, backbone and out

    def write(self, request: Request) -> object:
        """Writes the folder and returns the result, a dataclass. Raises InputError for what cannot be exported."""
        raise NotImplementedError


def formats_help() -> str:
    """Returns every tag with its description, for the verb's help text."""
    return "; ".join(f"{tag}: {cls.about}" for tag, cls in variants(ExportFormat).items())


def require_read(request: Request, chosen: type[ExportFormat]) -> None:
    """Raises InputError for an option of `request` that is given and that the format does not read."""
    for field in dataclasses.fields(Request):
        value = getattr(request, field.name)
        if field.name in COMMON or field.name in chosen.reads or value == field.default:
            continue
        readers = [tag for tag, cls in variants(ExportFormat).items() if field.name in cls.reads]
        name = field.name.replace("_", "-")
        raise InputError(f"--{name}: belongs to --format {' or '.join(readers)}; {chosen.tag} does not read it")
