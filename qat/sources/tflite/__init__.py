"""Float ``.tflite`` files: a table of operators, laid beside TFLite's kernels, writes each of them as calls of PyTorch."""
