"""Mixed precision on Fashion-MNIST: points predicted and measured, beside uniform precisions and random ones of the same size.

python benchmarks/mixed_precision.py [--frameworks torch keras] [--points 4] [--draws 5] [--json docs/mixed_precision.json]

A MobileNetV2 of 25 convolutions, trained on a part of the training images. Sensitivities are measured and points are chosen on
``--samples`` further training images; every file is then judged in its runtime on test images, which no choice has seen.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import qat
from qat.analysis.mixed.building import Builder
from qat.analysis.mixed.choices import choices_for
from qat.analysis.mixed.problem import Option
from qat.analysis.mixed.result import MixedPrecision
from qat.analysis.mixed.study import Study
from qat.planning.recipe import load_recipe
from qat.planning.targets import load_target
from qat.runs.datasets import idx

CHOICES = ("static_wi8_ai8", "static_wi4_ai8", "float16")
CALIBRATING = 300


def float_model(framework: str, batches: list[Any], epochs: int) -> Any:
    """Train the float model."""
    if framework == "torch":
        import torch

        from qat.runs.zoo_torch import SMALL, MobileNetV2

        torch.manual_seed(0)
        model: Any = MobileNetV2(SMALL, channels=1, classes=10, stem=16, stem_stride=2, head=256)
    else:
        import keras

        from qat.runs.zoo_keras import SMALL, mobilenet

        keras.utils.set_random_seed(0)
        model = mobilenet(SMALL, (28, 28, 1), 10, stem=16, stem_stride=2, head=256)
    qat.finetune(model, batches, epochs=epochs, learning_rate=0.1, weight_decay=1e-4, gradient_clip=None)
    return model


def of_same_size(options: tuple[Option, ...], size: int, seed: int) -> dict[str, str]:
    """Return a random assignment whose weights have about so many bytes: each layer's choice is drawn anew until that is so."""
    draw = random.Random(seed)
    by_layer: dict[str, dict[str, int]] = {}
    for option in options:
        by_layer.setdefault(option.layer, {})[option.choice] = option.bytes
    found = {layer: draw.choice([*choices]) for layer, choices in by_layer.items()}

    def far() -> float:
        return abs(sum(by_layer[item[0]][item[1]] for item in found.items()) - size) / size

    while far() > 0.01:
        layer = draw.choice([*by_layer])
        before, distance = found[layer], far()
        found[layer] = draw.choice([*by_layer[layer]])
        if far() > distance and draw.random() < 0.9:
            found[layer] = before
    return found


def assignments(found: MixedPrecision, draws: int) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the points, the uniform precisions, and random ones of the points' sizes."""
    for point in found.points:
        yield point.name, point.assignment
    for choice in CHOICES:
        yield f"uniform {choice}", {option.layer: choice for option in found.options}
    for point in found.points[1:-1]:
        for seed in range(draws):
            yield f"random {seed + 1} of {point.name}'s size", of_same_size(found.options, point.predicted.bytes, seed)


def rows(framework: str, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each file of a framework."""
    layout = "NCHW" if framework == "torch" else "NHWC"
    data = idx(args.data, "fashion_mnist", 0.286, 0.353)
    drawn = islice(data.batches("train", 100, layout, shuffle=0), (args.train + args.samples + CALIBRATING) // 100)
    batches = [*drawn]
    first, last = args.train // 100, (args.train + args.samples) // 100
    model = float_model(framework, batches[:first], args.epochs)
    choosing, samples = batches[first:last], [x for x, _ in batches[last:]]
    started = time.perf_counter()
    found = qat.mixed_precision(
        model, choosing, folder / "points", choices=CHOICES, points=args.points, target=args.target, calibration=samples
    )
    seconds = time.perf_counter() - started
    print(found, f"\n{seconds:.0f} s", flush=True)
    target = load_target(args.target)
    study = Study(model, choosing[0][0], load_recipe("static_wi8_ai8"), target, choices_for(target, CHOICES), None, "int8")
    test = [*data.batches("test", 200, layout, limit=args.test)]
    builder = Builder(study, samples, test, folder, overwrite=True)
    options = {(o.layer, o.choice): o for o in found.options}
    wanted = {name: dict(a) for name, a in assignments(found, args.draws) if not study.network.refused(a)}
    built = {name: builder.build(f"file_{i}", assignment) for i, (name, assignment) in enumerate(wanted.items())}
    report = qat.compare({"float": model} | {name: b.artifact for name, b in built.items()}, test, latency_runs=30)
    made = []
    for entry in report.entries:
        chosen = wanted.get(entry.name, {})
        score = built[entry.name].score if chosen else None
        made.append({
            "framework": framework, "target": args.target, "name": entry.name, "top1": entry.top1, "delta": entry.delta,
            "delta_low": entry.delta_low, "delta_high": entry.delta_high, "sqnr": entry.sqnr, "bytes": entry.bytes,
            "ms": entry.latency_p50, "weights": sum(options[item].bytes for item in chosen.items()),
            "predicted": sum(options[item].loss for item in chosen.items()), "loss": score.loss if score else 0.0,
            "samples": report.n_eval, "seconds": seconds,
            "layers": {choice: [*chosen.values()].count(choice) for choice in CHOICES},
        })  # fmt: skip
    return made


def table(made: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown; the random ones of a size as one row of their means."""
    lines = [
        "| file | weights KiB | loss, predicted | loss, measured | top-1 % | to float | file KiB | ms |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    drawn: dict[str, list[dict[str, Any]]] = {}
    for row in made:
        if row["name"].startswith("random"):
            drawn.setdefault(row["name"].partition(" of ")[2], []).append(row)
        else:
            lines.append(_line(row["name"], row))
    for size, group in drawn.items():
        means = {key: float(np.mean([row[key] for row in group])) for key in group[0] if isinstance(group[0][key], (int, float))}
        losses = [row["loss"] for row in group]
        lines.append(_line(f"random, {size}: mean of {len(group)} (loss {min(losses):.2g} to {max(losses):.2g})", means))
    return "\n".join(lines)


def _line(name: str, row: Mapping[str, Any]) -> str:
    losses = " | | " if name == "float" else f"{row['weights'] / 1024:.1f} | {row['predicted']:.2g} | {row['loss']:.2g}"
    delta = "" if row["delta"] is None else f"{row['delta']:+.2f}"
    return f"| {name} | {losses} | {row['top1']:.2f} | {delta} | {row['bytes'] / 1024:.1f} | {row['ms']:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="+", default=["torch", "keras"])
    parser.add_argument("--target", default="litert")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--train", type=int, default=12000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--test", type=int, default=10000)
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.getLogger("qat").setLevel(logging.ERROR)
    made: list[dict[str, Any]] = []
    for framework in args.frameworks:
        with tempfile.TemporaryDirectory() as folder:
            found = rows(framework, args, Path(folder))
        print(f"\n{framework} -> {args.target}\n\n{table(found)}\n", flush=True)
        made += found
        if args.json is not None:
            args.json.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
