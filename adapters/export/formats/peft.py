"""Adapter folders of Hugging Face PEFT, and those that vLLM reads. Imports no jax."""

from __future__ import annotations

from adapters.export.formats.format import ExportFormat, Request


class Peft(ExportFormat, tag="peft"):
    """A folder that PEFT loads."""

    about = "Hugging Face PEFT"

    def write(self, request: Request) -> object:
        from adapters.export.peft import export_peft

        return export_peft(request.graft, request.out, backbone=request.backbone)


class Vllm(ExportFormat, tag="vllm"):
    """A PEFT folder within the limits of vLLM's loader."""

    about = "PEFT as vLLM reads it"

    def write(self, request: Request) -> object:
        from adapters.export.peft import export_peft

        return export_peft(request.graft, request.out, backbone=request.backbone, vllm=True)
