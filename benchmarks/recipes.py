"""Every built-in recipe in every framework x format pair: size, parity and accuracy of MobileNetV2 on the digits, as a table.

python benchmarks/recipes.py [--epochs 2] [--recipes static_wi4_ai8 ...] [--pairs torch:onnxruntime keras:litert ...]
"""

import argparse
import logging
import os
import tempfile
from pathlib import Path

import qat
from qat.errors import ConfigError
from qat.planning.recipe import builtin_recipes
from qat.planning.targets import TARGETS
from qat.runs.datasets import digits
from qat.runtimes import open_session

PAIRS = ("torch:onnxruntime", "torch:litert", "keras:litert", "keras:onnxruntime")


def float_model(framework, data):
    """Train MobileNetV2 of 25 convolutions on the digits; returns it and how its images lie."""
    layout = "NCHW" if framework == "torch" else "NHWC"
    if framework == "torch":
        import torch

        from qat.runs.zoo_torch import SMALL, MobileNetV2

        torch.manual_seed(0)
        model = MobileNetV2(SMALL, channels=1, classes=10, stem=16, stem_stride=1, head=256)
    else:
        import keras

        from qat.runs.zoo_keras import SMALL, mobilenet

        keras.utils.set_random_seed(0)
        model = mobilenet(SMALL, (8, 8, 1), 10, stem=16, stem_stride=1, head=256)
    qat.finetune(model, data.batches("train", 32, layout, shuffle=0), epochs=15, learning_rate=0.05, gradient_clip=None)
    return model, layout


def top1(path, batches):
    """Return the share of images that an artifact classifies rightly, in percent."""
    session = open_session(path)
    right = [(session.run(x)[0].argmax(-1) == y).mean() * len(y) for x, y in batches]
    return 100 * sum(right) / sum(len(y) for _, y in batches)


def row(model, framework, target, recipe, data, layout, epochs, folder):
    """Return one row of the table: quantize, fine-tune, export, verify."""
    test = data.batches("test", 100, layout)
    samples = [x for x, _ in data.batches("train", 100, layout, limit=300)]
    example = None
    if framework == "torch":
        import torch

        example = torch.from_numpy(samples[0][:2])
    try:
        prepared = qat.calibrate(qat.prepare(model, example, recipe, target), samples)
    except ConfigError as error:
        return ["–", str(error).partition(" needs ")[2].partition(";")[0], "", "", ""]
    qat.finetune(prepared, data.batches("train", 32, layout, shuffle=0), epochs=epochs, learning_rate=0.002)
    artifact = qat.export(prepared, folder / f"{framework}_{target}_{recipe}{TARGETS[target].suffix}", verify=test)
    parity = artifact.parity
    by = {"xnnpack": "LiteRT", "mlas": "ONNX Runtime"}[TARGETS[target].kernels]
    return [
        by,
        f"{artifact.bytes / 1024:.0f} KiB",
        f"{parity.exact:.2%}",
        f"{parity.max_lsb:.1g}",
        f"{top1(artifact.path, test):.1f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--recipes", nargs="*", default=list(builtin_recipes()))
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS))
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("qat").setLevel(logging.ERROR)
    data, models = digits(), {}
    print("| recipe | pair | runs in | size | outputs equal | max LSB | top-1 % |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes:
            for pair in options.pairs:
                framework, target = pair.split(":")
                if framework not in models:
                    models[framework] = float_model(framework, data)
                cells = row(
                    models[framework][0], framework, target, recipe, data, models[framework][1], options.epochs, Path(folder)
                )
                print(f"| {recipe} | {framework} → {target} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
