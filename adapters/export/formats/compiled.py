"""A folder of functions that jax runs without Topgraft. Imports no jax."""

from __future__ import annotations

from adapters.export.formats.format import ExportFormat, Request


class Jax(ExportFormat, tag="jax"):
    """Exported functions of jax, one for each bucket."""

    about = "functions that answer with jax alone"
    reads = ("buckets", "batch", "precision")

    def write(self, request: Request) -> object:
        from adapters.export.compiled import export_jax

        return export_jax(
            request.graft,
            request.out,
            backbone=request.backbone,
            buckets=request.buckets,
            batch=request.batch,
            precision=request.precision,
        )
