"""Grafts for other software: PEFT folders, compiled functions and ONNX files that run without Topgraft."""
