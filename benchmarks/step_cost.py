"""What a QAT step costs against the float step it replaces: one thread, interleaved, medians.

    python benchmarks/step_cost.py [--runs 20] [--keras]

A step is forward, backward and optimizer (SGD with momentum). ``float`` is the model as users train it, BatchNorm in training
mode; ``folded`` is the same with BatchNorm folded, the limit of what a QAT step could cost.
"""

import argparse
import copy
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[variable] = "1"

import numpy as np

import qat


def torch_steps(name, batch, channels_last=False):
    """Return a step of each kind, by name."""
    import torch
    import torch.nn.functional as F
    from torch.fx.experimental.optimization import fuse

    from qat.zoo import torch as zoo

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, labels = torch.randn(batch, 3, 64, 64), torch.randint(0, 10, (batch,))
    model = getattr(zoo, name)(classes=10)
    model.train()(x)
    model.eval()
    prepared = qat.calibrate(qat.prepare(model, x), [x])
    kinds = {"float": model, "folded": fuse(copy.deepcopy(model)), "qat": prepared}
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        kinds = {kind: m.to(memory_format=torch.channels_last) for kind, m in kinds.items()}

    def step_of(m):
        optimizer = torch.optim.SGD(m.parameters(), 1e-3, momentum=0.9)
        m.train()

        def step():
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(m(x), labels).backward()
            optimizer.step()

        return step

    return {kind: step_of(m) for kind, m in kinds.items()}


def keras_steps(batch):
    """Return a step of each kind, by name."""
    import keras

    from qat.zoo.keras import mobilenet_v2

    keras.utils.set_random_seed(0)
    x, labels = np.random.default_rng(0).normal(size=(batch, 64, 64, 3)).astype(np.float32), np.arange(batch) % 10
    model = mobilenet_v2(size=64, classes=10)
    prepared = qat.calibrate(qat.prepare(model), [x])

    def step_of(m):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss, jit_compile=False)
        return lambda: m.train_on_batch(x, labels)

    return {"float": step_of(model), "qat": step_of(prepared)}


def measure(steps, runs):
    """Run the steps in turn and return their seconds by name."""
    times = {kind: [] for kind in steps}
    for turn in range(runs + 3):
        for kind, step in steps.items():
            started = time.perf_counter()
            step()
            if turn >= 3:
                times[kind].append(time.perf_counter() - started)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--keras", action="store_true", help="the Keras rows instead of PyTorch's")
    options = parser.parse_args()
    if options.keras:
        rows = [("MobileNetV2, batch 16, Keras", lambda: keras_steps(16))]
    else:
        rows = [
            ("MobileNetV2, batch 16", lambda: torch_steps("mobilenet_v2", 16)),
            ("MobileNetV2, batch 16, channels_last", lambda: torch_steps("mobilenet_v2", 16, True)),
            ("ResNet-18, batch 8", lambda: torch_steps("resnet18", 8)),
        ]
    for title, build in rows:
        times = measure(build(), options.runs)
        median = {kind: statistics.median(t) for kind, t in times.items()}
        shown = ", ".join(f"{kind} {1e3 * m:.1f} ms ({m / median['float']:.2f})" for kind, m in median.items())
        print(f"{title}, 64x64: {shown}", flush=True)


if __name__ == "__main__":
    main()
