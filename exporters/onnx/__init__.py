"""The ``.onnx`` exporter."""
