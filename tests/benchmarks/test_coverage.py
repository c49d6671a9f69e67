"""Architectures of the coverage table, in both frameworks, against the table's aims.

``python benchmarks/coverage.py`` measures these and the others, each in a process of its own.
"""

import pytest
from architectures import ARCHITECTURES
from coverage_row import measure

#: The most LSB of each row. Where all operators are integer kernels every output is equal. The softmax that ends four Keras
#: models is float, and how many of its values differ in the last bits is the processor's.
IN_CI = {
    "torch/MobileNetV2/onnx": 0.0, "torch/RegNetY-400MF/onnx": 0.0, "torch/BERT-mini/onnx": 0.0, "torch/U-Net/onnx": 0.0,
    "keras/MobileNetV2/tflite": 1e-3, "keras/Transformer/tflite": 1e-3,
}  # fmt: skip
OTHERS = {
    "torch/ResNet-18/onnx": 0.0, "torch/ResNet-50/onnx": 0.0, "torch/MobileNetV3-Small/onnx": 0.0, "torch/ShuffleNetV2/onnx": 0.0,
    "torch/Detector/onnx": 0.0, "keras/MobileNet/tflite": 1e-3, "keras/VGG16/tflite": 1e-3, "keras/U-Net/tflite": 0.0,
}  # fmt: skip
BY_KEY = {a.key: a for a in ARCHITECTURES}


@pytest.mark.slow
@pytest.mark.parametrize(("key", "lsb"), [*(pytest.param(*row, marks=pytest.mark.ci) for row in IN_CI.items()), *OTHERS.items()])
def test_architecture(key, lsb, tmp_path):
    pytest.importorskip(BY_KEY[key].framework)
    row = measure(BY_KEY[key], tmp_path)
    assert row["integer_macs"] >= 1.0, row["float_ops"]
    assert row["max_lsb"] <= lsb, row["first_difference"]
    assert row["top1"] in (None, 1.0)
    assert row["size_ratio"] > 2.5
