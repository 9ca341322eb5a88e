"""The verbs of `adapters`: export, import-graft, combine, machine. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adapters.combination import Combination
from backbone.errors import InputError
from backbone.options import argument, option, required
from backbone.verbs import IntoFolder, OfGraft, OnBackbone, Verb


@dataclass(frozen=True, kw_only=True)
class Export(OfGraft, OnBackbone, IntoFolder, Verb, verb="export"):
    format: Literal["peft", "jax"] = required(
        "layout of the folder; peft: Hugging Face PEFT; jax: answers without topgraft"
    )
    buckets: tuple[int, ...] = option((), "jax: lengths in tokens, commas between (default: up to the longest input)")
    batch: int = option(8, "jax: rows of a call", min=1)

    def call(self) -> object:
        """Writes a graft for other software."""
        if self.format == "jax":
            from adapters.export.compiled import export_jax

            return export_jax(self.graft, self.out, backbone=self.backbone, buckets=self.buckets, batch=self.batch)
        if self.buckets or self.batch != type(self).batch:
            raise InputError("--buckets: this and --batch belong to --format jax")
        from adapters.export.peft import export_peft

        return export_peft(self.graft, self.out, backbone=self.backbone)


@dataclass(frozen=True, kw_only=True)
class ImportGraft(IntoFolder, Verb, verb="import-graft"):
    source: str = argument("PEFT folder")
    backbone: str = required("backbone folder to which the graft belongs")
    labels: str | None = option(None, "label names, comma separated, or a file with one a line")

    def call(self) -> object:
        """Imports a PEFT adapter folder as a graft."""
        from adapters.export.peft import import_peft

        return import_peft(self.source, self.backbone, self.out, labels=self.labels)


@dataclass(frozen=True, kw_only=True)
class Combine(Combination, OnBackbone, IntoFolder, Verb, verb="combine"):
    grafts: tuple[str, ...] = argument("graft folders, two or more", name="graft")

    def call(self) -> object:
        """Combines LoRA grafts of one backbone by fixed weights."""
        from adapters.mixing import combine

        return combine(self.grafts, self.out, self, backbone=self.backbone)


@dataclass(frozen=True, kw_only=True)
class DescribeMachine(Verb, verb="machine"):
    again: bool = option(False, "measure anew, even where there is a record")

    def call(self) -> object:
        """Describes this machine, and whether its compiler gives the right results."""
        from adapters.machine import machine_record

        return machine_record(again=self.again)


VERBS: tuple[type[Verb], ...] = (Export, ImportGraft, Combine, DescribeMachine)
