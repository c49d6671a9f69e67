"""Architectures of the coverage table, in both frameworks, against the table's aims.

``python benchmarks/coverage.py`` measures these and the others, each in a process of its own.
"""

import pytest
from architectures import ARCHITECTURES
from coverage_row import measure

#: ``(row, least share of multiply-accumulates in integers, least share of equal outputs, most LSB)``. Where all operators are
#: integer kernels every output is equal. The softmax that ends three Keras models is float, and differs in the last bits.
SUBSET = (
    ("torch/MobileNetV2/onnx", 1.0, 1.0, 0.0),
    ("torch/ResNet-18/onnx", 1.0, 1.0, 0.0),
    ("torch/ResNet-50/onnx", 1.0, 1.0, 0.0),
    ("torch/MobileNetV3-Small/onnx", 1.0, 1.0, 0.0),
    ("torch/RegNetY-400MF/onnx", 1.0, 1.0, 0.0),
    ("torch/ShuffleNetV2/onnx", 1.0, 1.0, 0.0),
    ("torch/BERT-mini/onnx", 1.0, 1.0, 0.0),
    ("torch/U-Net/onnx", 1.0, 1.0, 0.0),
    ("torch/Detector/onnx", 1.0, 1.0, 0.0),
    ("keras/MobileNet/tflite", 1.0, 0.9, 1e-3),
    ("keras/MobileNetV2/tflite", 1.0, 0.9, 1e-3),
    ("keras/VGG16/tflite", 1.0, 0.9, 1e-3),
    ("keras/Transformer/tflite", 1.0, 0.9, 1e-3),
    ("keras/U-Net/tflite", 1.0, 1.0, 0.0),
)
BY_KEY = {a.key: a for a in ARCHITECTURES}


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(("key", "integer", "exact", "lsb"), SUBSET, ids=[row[0] for row in SUBSET])
def test_architecture(key, integer, exact, lsb, tmp_path):
    pytest.importorskip(BY_KEY[key].framework)
    row = measure(BY_KEY[key], tmp_path)
    assert row["integer_macs"] >= integer, row["float_ops"]
    assert row["exact"] >= exact and row["max_lsb"] <= lsb, row["first_difference"]
    assert row["top1"] in (None, 1.0)
    assert row["size_ratio"] > 2.5
