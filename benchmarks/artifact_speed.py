"""How much faster the int8 .onnx is than the float .onnx: ResNet-18, ONNX Runtime, one thread, interleaved, medians.

python benchmarks/artifact_speed.py [--size 224] [--runs 30]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import qat
from qat.ptq import float_baseline
from qat.runtimes import open_session
from qat.zoo.torch import resnet18


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(4, 3, options.size, options.size)
    model = resnet18().train()
    with torch.no_grad():
        model(x)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        quantized = qat.calibrate(qat.prepare(model, x[:1]), [x])
        artifact = qat.export(quantized, Path(folder) / "int8.onnx", verify=[x.numpy()])
        sessions = {
            "float": open_session(float_baseline(model, x[:1], folder).path),
            "int8": open_session(artifact.path),
        }
        times = {name: [] for name in sessions}
        for turn in range(options.runs + 3):
            for name, session in sessions.items():
                started = time.perf_counter()
                session.run(x[:1].numpy())
                if turn >= 3:
                    times[name].append(time.perf_counter() - started)
    median = {name: 1e3 * statistics.median(t) for name, t in times.items()}
    print(f"ResNet-18 {options.size}x{options.size}, batch 1: float {median['float']:.1f} ms, int8 {median['int8']:.1f} ms")
    print(f"int8 is {median['float'] / median['int8']:.2f}x as fast; outputs equal to the model's: {artifact.parity.exact:.2%}")


if __name__ == "__main__":
    main()
