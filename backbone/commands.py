"""The verbs of `backbone`: import-backbone, export-backbone. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbone.console.options import argument, option, required
from backbone.console.verbs import IntoFolder, Verb


@dataclass(frozen=True, kw_only=True)
class ImportBackbone(IntoFolder, Verb, verb="import-backbone"):
    source: str = argument("folder in the Hugging Face layout, hf:org/name[@revision], or minilm")
    replace: bool = option(False, "replace an existing folder")

    def call(self) -> object:
        """Imports pretrained weights into a backbone folder."""
        from backbone.exchange.importing import import_backbone

        return import_backbone(self.source, self.out, replace=self.replace)


@dataclass(frozen=True, kw_only=True)
class ExportBackbone(IntoFolder, Verb, verb="export-backbone"):
    backbone: str = argument("backbone folder, or folder of a run of train-backbone")
    format: Literal["hf"] = required("layout of the folder; hf: Hugging Face transformers")

    def call(self) -> object:
        """Writes a backbone for other software."""
        from backbone.exchange.exporting import export_hf

        return export_hf(self.backbone, self.out)


VERBS: tuple[type[Verb], ...] = (ImportBackbone, ExportBackbone)
