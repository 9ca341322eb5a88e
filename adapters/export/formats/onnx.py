"""One ONNX file that onnxruntime runs. Imports no jax."""

from __future__ import annotations

from adapters.export.formats.format import ExportFormat, Request


class Onnx(ExportFormat, tag="onnx"):
    """The whole answer as an ONNX graph, in float32 or int8."""

    about = "a file that answers with onnxruntime alone"
    reads = ("precision",)

    def write(self, request: Request) -> object:
        from adapters.export.onnx.export import export_onnx

        return export_onnx(request.graft, request.out, backbone=request.backbone, precision=request.precision)
