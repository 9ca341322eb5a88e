"""A graft as one ONNX file: its traced forward function, converted primitive by primitive."""
