"""One row of the coverage table: prepare, calibrate, train two steps, export, run, compare.

    python benchmarks/coverage_row.py torch/ResNet-18 row.json

Runs in a process of its own, which the table's command starts, so that a crash or a want of memory loses one row.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from architectures import ARCHITECTURES, Architecture
from macs import costs, integer_share

import qat
from qat.errors import QatError

BATCH, CALIBRATION, SAMPLES = 2, 8, 16
MEMORY = 18 << 30  # bytes of address space; TensorFlow alone reserves several


def images(count: int, channels: int, size: int, channels_last: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits enlarged, each in a colour of its own with some noise, and their labels."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    data = load_digits()
    chosen = rng.permutation(len(data.target))[:count]
    grey = data.images[chosen].astype(np.float32) / 8 - 1
    index = np.minimum(np.arange(size) * 8 // size, 7)
    x = grey[:, index][:, :, index, None] * rng.uniform(0.5, 1.5, (count, 1, 1, channels))
    x = (x + rng.normal(0, 0.3, x.shape)).astype(np.float32)
    return (x if channels_last else np.ascontiguousarray(x.transpose(0, 3, 1, 2))), data.target[chosen].astype(np.int64)


def samples(architecture: Architecture, count: int, seed: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return inputs for an architecture, and labels of ten classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    arrays = []
    for kind, channels, size in architecture.inputs:
        if kind == "image":
            x, labels = images(count, channels, size, architecture.framework != "torch", seed)
        elif kind == "tokens":
            x = rng.integers(0, channels, (count, size))
        else:  # audio: a few tones and noise
            t = np.arange(size) / 16000
            tones = rng.uniform(100, 4000, (count, channels, 3, 1))
            x = (np.sin(2 * np.pi * tones * t).sum(2) / 2 + rng.normal(0, 0.1, (count, channels, size))).astype(np.float32)
        arrays.append(x)
    return tuple(arrays), labels


def batches(arrays: tuple[np.ndarray, ...], labels: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    """Cut samples into ``(inputs, labels)`` batches."""
    cuts = range(0, len(labels), BATCH)
    cut = [(tuple(a[i : i + BATCH] for a in arrays), labels[i : i + BATCH]) for i in cuts]
    return [(x[0] if len(x) == 1 else x, y) for x, y in cut]


def settle(model: Any, framework: str, arrays: tuple[np.ndarray, ...]) -> int:
    """Give BatchNorm the statistics of a batch, so that activations neither vanish nor explode; return the parameters' bytes."""
    if framework == "torch":
        import torch

        norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        if not getattr(model, "pretrained", False):
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            with torch.no_grad():
                model(*(torch.from_numpy(a) for a in arrays))
        model.eval()
        return sum(t.numel() * t.element_size() for t in model.state_dict().values())
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = 0.0
    model(arrays[0] if len(arrays) == 1 else list(arrays), training=True)
    return sum(int(np.prod(w.shape)) * 4 for w in model.weights)


def squares(framework: str) -> Any:
    """Return a loss for models without a row of scores: the mean square of all outputs."""
    if framework == "torch":
        from torch.utils import _pytree as pytree

        return lambda outputs, labels: sum(o.square().mean() for o in pytree.tree_leaves(outputs))
    import keras

    return lambda outputs, labels: sum(keras.ops.mean(keras.ops.square(o)) for o in keras.tree.flatten(outputs))


def measure(architecture: Architecture, folder: Path) -> dict[str, Any]:
    """Return the row's figures. Raises whatever fails."""
    framework = architecture.framework
    if framework == "torch":
        import torch

        torch.manual_seed(0)
    model = architecture.build()
    arrays, labels = samples(architecture, CALIBRATION, 1)
    float_bytes = settle(model, framework, arrays)
    data = batches(arrays, labels)
    started = time.perf_counter()
    example = None if framework != "torch" else tuple(torch.from_numpy(a[:BATCH]) for a in arrays)
    prepared = qat.prepare(model, example)
    prepare_s = time.perf_counter() - started
    qat.calibrate(prepared, data)
    history = qat.finetune(prepared, data[:2], loss=None if architecture.scores else squares(framework), progress=False)
    held_out = batches(*samples(architecture, SAMPLES, 2))
    reached: list[float] = []

    def watched() -> Iterator[Any]:
        for inputs, _ in held_out:
            if not reached:
                reached.append(time.perf_counter())
            yield inputs if not isinstance(inputs, tuple) else (inputs, None)

    path = folder / ("model.onnx" if framework == "torch" else "model.tflite")
    started = time.perf_counter()
    artifact = qat.export(prepared, path, verify=watched())
    ended = time.perf_counter()
    parity = artifact.parity
    counted = costs(path)
    return {
        "integer_macs": integer_share(counted),
        "macs": sum(c.macs for c in counted),
        "exact": parity.exact,
        "mean_lsb": parity.mean_lsb,
        "max_lsb": parity.max_lsb,
        "top1": parity.top1_agreement,
        "first_difference": parity.first_difference,
        "size_ratio": float_bytes / artifact.bytes,
        "prepare_s": prepare_s,
        "export_s": reached[0] - started,
        "verify_s": ended - reached[0],
        "loss": history.epochs[-1].loss,
        "float_ops": floats(prepared),
    }


def floats(prepared: Any) -> list[tuple[str, str, int]]:
    """Return the operators that stay float as ``(operator, reason, how many)``."""
    plan = getattr(prepared, "plan", None)
    if plan is None:
        return []
    kinds = {p.op.name: str(p.op.attrs.get("target", p.op.kind)) for p in plan.ops}
    counted = Counter((kinds[name], reason) for name, reason in plan.floats().items())
    return [(kind, reason, n) for (kind, reason), n in counted.most_common()]


def main() -> None:
    key, out = sys.argv[1], Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    architecture = next(a for a in ARCHITECTURES if a.key == key)
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = measure(architecture, Path(folder))
        except Exception as error:  # whatever fails is the row
            if not isinstance(error, QatError):
                import traceback

                traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
    out.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
