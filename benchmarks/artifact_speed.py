"""How much faster the integer artifact is than the float one, in its runtime: one thread, batch 1, interleaved, medians.

    python benchmarks/artifact_speed.py [torch/ResNet-18 keras/MobileNetV2 ...] [--size 224] [--runs 30]

Names are those of benchmarks/coverage.py. The share of outputs equal to the prepared model's is that of the same file.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from architectures import ARCHITECTURES
from coverage_row import samples, settle

import qat
from qat.baselines import float_baseline
from qat.runtimes import open_session

DEFAULT = ("torch/ResNet-18", "torch/MobileNetV2", "torch/MobileNetV3-Large", "torch/EfficientNet-B0", "torch/ConvNeXt-tiny",
           "keras/MobileNetV2", "keras/MobileNetV3Large", "keras/ResNet50")  # fmt: skip


def enlarged(architecture, size):
    """Return an architecture for images of another size."""
    inputs = tuple((kind, n, size if kind == "image" else length) for kind, n, length in architecture.inputs)
    arguments = architecture.arguments | ({"size": size} if isinstance(architecture.arguments.get("size"), int) else {})
    return dataclasses.replace(architecture, inputs=inputs, arguments=arguments)


def measure(architecture, runs, folder):
    """Return the median seconds of the float and of the integer artifact, and the share of equal outputs."""
    import torch

    model = architecture.build()
    arrays, _ = samples(architecture, 4, 1)
    settle(model, architecture.framework, arrays)
    if architecture.framework == "torch":
        arrays = tuple(torch.from_numpy(a) for a in arrays)
    batch = arrays[0] if len(arrays) == 1 else (arrays, None)
    one = tuple(a[:1] for a in arrays)
    quantized = qat.calibrate(qat.prepare(model, one if architecture.framework == "torch" else None), [batch])
    artifact = qat.export(
        quantized, Path(folder) / ("int8.onnx" if architecture.framework == "torch" else "int8.tflite"), verify=[batch]
    )
    baseline = float_baseline(model, one, folder)
    if baseline.error:
        raise SystemExit(f"{architecture.key}: no float artifact: {baseline.error}")
    sessions = [open_session(baseline.path), open_session(artifact.path)]
    feeds = [session.in_file_types(*(x.numpy() if architecture.framework == "torch" else x for x in one)) for session in sessions]
    times = [[], []]
    for turn in range(runs + 3):
        for session, feed, taken in zip(sessions, feeds, times, strict=True):
            started = time.perf_counter()
            session.invoke(*feed)
            if turn >= 3:
                taken.append(time.perf_counter() - started)
    return *(statistics.median(t) for t in times), artifact.parity.exact


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=DEFAULT)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    known = {a.key: a for a in ARCHITECTURES}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    print(f"| {options.size}x{options.size}, batch 1 | float ms | int8 ms | faster | outputs equal |\n|---|---|---|---|---|")
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            slow, fast, exact = measure(enlarged(known[name], options.size), options.runs, folder)
        print(f"| {name} | {1e3 * slow:.1f} | {1e3 * fast:.1f} | {slow / fast:.2f}x | {exact:.2%} |", flush=True)


if __name__ == "__main__":
    main()
