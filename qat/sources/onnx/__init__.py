"""Float ``.onnx`` files: a table of operators, laid beside ONNX's specification, writes each of them as calls of PyTorch."""
