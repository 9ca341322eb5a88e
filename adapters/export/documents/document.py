"""The base of documents about a graft, which are formats of `topgraft export`. Imports no jax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from adapters.export.documents.facts import Carbon, Facts, read_facts
from adapters.export.formats.format import ExportFormat, Request
from backbone.errors import InputError
from backbone.files import new_folder


@dataclass(frozen=True)
class WrittenDocument:
    """The result of the export of a document."""

    path: str  # folder written
    format: str
    content_id: str  # content_id of the graft
    files: tuple[str, ...]
    absent: tuple[str, ...]  # figures that are missing, with what gives them


class Document(ExportFormat):
    """A document that other people's tools read; a variant says what is in its files."""

    reads: ClassVar[tuple[str, ...]] = ("profile", "carbon_intensity")

    def files(self, facts: Facts) -> Mapping[str, str]:
        """Returns the text of each file, by its name."""
        raise NotImplementedError

    def write(self, request: Request) -> WrittenDocument:
        if request.backbone is not None:
            raise InputError(
                f"--backbone: --format {self.tag} reads no backbone; everything is in the graft's manifest"
            )
        carbon = Carbon(request.carbon_intensity, request.embodied_training, request.embodied_query)
        facts = read_facts(request.graft, request.profile, carbon)
        files = self.files(facts)
        with new_folder(Path(request.out)) as folder:
            for file, text in files.items():
                (folder / file).write_text(text, encoding="utf-8")
        return WrittenDocument(request.out, self.tag, facts.manifest.content_id, tuple(files), tuple(facts.absent()))
