"""The verbs of `adapters`: export, import-graft, combine, machine, upload. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapters.combination import Combination
from adapters.export.formats.format import ExportFormat, Request, formats_help, require_read
from backbone.console.options import argument, option, required
from backbone.console.verbs import IntoFolder, OnBackbone, Verb
from backbone.errors import InputError
from backbone.variants.registered import variant


@dataclass(frozen=True, kw_only=True)
class Export(Request, Verb, verb="export"):
    format: str = required(f"kind of the export; {formats_help()}")

    def call(self) -> object:
        """Writes a graft for other software."""
        chosen = variant(ExportFormat, self.format, "--format")
        require_read(self, chosen)
        return chosen().write(self)


@dataclass(frozen=True, kw_only=True)
class ImportGraft(IntoFolder, Verb, verb="import-graft"):
    source: str = argument("PEFT folder, or folder of a fine-tuned classifier in the Hugging Face layout")
    backbone: str = required("backbone folder to which the graft belongs")
    labels: str | None = option(None, "label names, comma separated, or a file with one a line")
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = option(
        None, "what the classifier's outputs are (default: what the model's config.json says, else by their number)"
    )
    max_tokens: int | None = option(
        None, "length at which texts are cut (default: the backbone's longest input)", min=1
    )

    def call(self) -> object:
        """Imports a PEFT adapter folder, or the classifier of a full fine-tune, as a graft."""
        labels, problem, max_tokens = self.labels, self.problem_type, self.max_tokens
        if not Path(self.source, "adapter_config.json").exists() and Path(self.source, "config.json").exists():
            from adapters.export.classifier import import_classifier

            return import_classifier(
                self.source, self.backbone, self.out, labels=labels, problem=problem, max_tokens=max_tokens
            )
        from adapters.export.peft import import_peft

        return import_peft(self.source, self.backbone, self.out, labels=labels, problem=problem, max_tokens=max_tokens)


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
    audit: bool = option(False, "time our programs too, and record what surrounds them")
    baseline: str | None = option(None, "file of an earlier audit to compare with; status 10 for a loss")
    write_baseline: str | None = option(None, "file that gets this audit")
    rounds: int = option(7, "rounds of each program; more of them on a noisy machine", min=3)
    libraries: bool = option(False, "compare answers and libraries, no speeds: the baseline is of another machine")

    def call(self) -> object:
        """Describes this machine, and whether its compiler gives the right results."""
        if self.audit:
            from adapters.auditing.audit import audit_machine

            if self.libraries and self.baseline is None:
                raise InputError("--libraries: there is nothing to compare with; name a file with --baseline")
            return audit_machine(
                baseline=self.baseline,
                write_baseline=self.write_baseline,
                again=self.again,
                rounds=self.rounds,
                libraries=self.libraries,
            )
        for name, value, default in (
            ("baseline", self.baseline, None),
            ("write-baseline", self.write_baseline, None),
            ("rounds", self.rounds, 7),
            ("libraries", self.libraries, False),
        ):
            if value != default:
                raise InputError(f"--{name}: belongs to --audit, got {value} without it")
        from adapters.machine import machine_record

        return machine_record(again=self.again)


@dataclass(frozen=True, kw_only=True)
class Upload(Verb, verb="upload"):
    folder: str = argument("local folder of a graft or backbone")
    address: str = argument("s3://BUCKET/NAME or gs://BUCKET/NAME")

    def call(self) -> object:
        """Writes a graft or backbone to an object store, where nothing is overwritten."""
        from adapters.artefact.upload import upload

        return upload(self.folder, self.address)


VERBS: tuple[type[Verb], ...] = (Export, ImportGraft, Combine, DescribeMachine, Upload)
