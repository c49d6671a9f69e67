"""One row of the coverage table: prepare, calibrate, train two steps, export, run, compare.

    python benchmarks/coverage_row.py torch/ResNet-18/onnx row.json

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
TARGETS = {"onnx": "onnxruntime", "tflite": "litert"}
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


def samples(architecture: Architecture, count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return inputs for an architecture, by name or position, and labels of ten classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    arrays = {}
    for position, given in enumerate(architecture.inputs):
        first, size = given.first, given.size
        if given.kind in ("image", "frames", "clip"):
            x, labels = images(
                count, first if given.kind == "image" else 3, size, architecture.framework != "torch", seed + position
            )
            if given.kind in ("frames", "clip"):  # the same picture, moving
                x = np.stack([np.roll(x, frame, -2) for frame in range(first)], 1 if given.kind == "frames" else 2)
        elif given.kind == "tokens":
            x = rng.integers(0, first, (count, size))
        elif given.kind == "mask":
            x = (np.arange(size) < rng.integers(first, size + 1, (count, 1))).astype(np.int64)
        elif given.kind == "segments":
            x = (np.arange(size) >= rng.integers(1, size, (count, 1))).astype(np.int64)
        elif given.kind == "features":
            x = rng.normal(0, 1, (count, first, size)).astype(np.float32)
        else:  # audio, wave: a few tones and noise
            shape = (count, first) if given.kind == "audio" else (count,)
            t = np.arange(size) / 16000
            tones = rng.uniform(100, 4000, (*shape, 3, 1))
            x = (np.sin(2 * np.pi * tones * t).sum(-2) / 2 + rng.normal(0, 0.1, (*shape, size))).astype(np.float32)
        arrays[given.name or str(position)] = x
    return arrays, labels


def fed(architecture: Architecture, arrays: dict[str, Any]) -> Any:
    """Return inputs as the model takes them: a dictionary where they have names, else an array or a tuple."""
    if architecture.inputs[0].name:
        return arrays
    return next(iter(arrays.values())) if len(arrays) == 1 else tuple(arrays.values())


def batches(architecture: Architecture, arrays: dict[str, np.ndarray], labels: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    """Cut samples into ``(inputs, labels)`` batches."""
    cuts = [slice(i, i + BATCH) for i in range(0, len(labels), BATCH)]
    return [(fed(architecture, {name: a[cut] for name, a in arrays.items()}), labels[cut]) for cut in cuts]


def settle(architecture: Architecture, model: Any, arrays: dict[str, np.ndarray]) -> int:
    """Give BatchNorm the statistics of a batch, so that activations neither vanish nor explode; return the parameters' bytes."""
    if architecture.framework == "torch":
        import torch

        norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        model.eval()
        if norms and not getattr(model, "pretrained", False):
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            with torch.no_grad():
                call(architecture, model, {name: torch.from_numpy(a) for name, a in arrays.items()})
        model.eval()
        return sum(t.numel() * t.element_size() for t in model.state_dict().values())
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = 0.0
    inputs = fed(architecture, arrays)
    model(list(inputs) if isinstance(inputs, tuple) else inputs, training=True)
    return sum(int(np.prod(w.shape)) * 4 for w in model.weights)


def call(architecture: Architecture, model: Any, tensors: dict[str, Any]) -> Any:
    """Call a PyTorch model with tensors by position or by name."""
    return model(**tensors) if architecture.inputs[0].name else model(*tensors.values())


def example(architecture: Architecture, inputs: Any) -> Any:
    """Return a batch as ``qat.prepare`` takes it: tensors for PyTorch, arrays for Keras, nothing for ``tf_keras``."""
    if architecture.framework == "torch":
        import torch
        from torch.utils import _pytree as pytree

        return pytree.tree_map(torch.from_numpy, inputs)
    return inputs if architecture.framework == "keras" else None


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
    float_bytes = settle(architecture, model, arrays)
    data = batches(architecture, arrays, labels)
    started = time.perf_counter()
    prepared = qat.prepare(model, example(architecture, data[0][0]), target=TARGETS[architecture.format])
    prepare_s = time.perf_counter() - started
    qat.calibrate(prepared, data)
    history = qat.finetune(prepared, data[:2], loss=None if architecture.scores else squares(framework), progress=False)
    held_out = batches(architecture, *samples(architecture, SAMPLES, 2))
    reached: list[float] = []

    def watched() -> Iterator[Any]:
        for inputs, _ in held_out:
            if not reached:
                reached.append(time.perf_counter())
            yield inputs if not isinstance(inputs, tuple) else (inputs, None)

    path = folder / f"model.{architecture.format}"
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
