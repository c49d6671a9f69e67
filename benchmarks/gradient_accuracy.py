"""Accuracy of QAT by what its gradients are computed in: float32, or bfloat16 in every integer node.

    python benchmarks/accuracy.py float --seeds 0
    python benchmarks/gradient_accuracy.py [--rows W8A8 ...] [--steps 60] [--images 5000] [--json FILE]

The float model, the batches and the test images are those of seed 0 of benchmarks/accuracy.py. A seed is an order of the batches.
``bf16`` rather than ``auto``: so the result does not depend on what is faster on the machine. Prints a table of top-1 %.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
from pathlib import Path

import numpy as np
import torch
from accuracy import ROWS, TRAINING, calibrated, load_data, load_float, predicted, train

LOW = ("W8A8", "W4A8", "W4A4", "W3A3")
GRADIENTS = ("float32", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--rows", nargs="*", default=LOW, choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=5000, help="of the test images")
    parser.add_argument("--json", type=Path, help="keep each result here, one a line")
    options = parser.parse_args()
    logging.getLogger("qat").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    model, data = load_float(options.folder, 0), load_data(options.folder, 0)
    images, labels = data["test_x"][: options.images], data["test_y"][: options.images]
    print(f"| bits | before training | {' | '.join(GRADIENTS)} |\n|---|---|---|---|", flush=True)
    for row in options.rows:
        start = calibrated(model, data["calibration"], row)
        found: dict[str, list[float]] = {"before": [top1(start, images, labels)]} | {name: [] for name in GRADIENTS}
        for seed in options.seeds:
            order = np.random.default_rng(seed).permutation(len(data["train_x"]))[: options.steps]
            batches = {name: data[name][order] for name in ("train_x", "train_y")}
            for name in GRADIENTS:
                trained = copy.deepcopy(start)
                train(trained, batches, seed, TRAINING[row] | {"gradients": name})
                found[name].append(top1(trained, images, labels))
                if options.json:
                    with options.json.open("a") as file:
                        file.write(json.dumps({"row": row, "seed": seed, "gradients": name, "top1": found[name][-1]}) + "\n")
        print(f"| {row} | {' | '.join(shown(values) for values in found.values())} |", flush=True)


def top1(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy of a prepared model in percent."""
    return round(100 * float((predicted(model, images).argmax(-1) == labels).mean()), 2)


def shown(values: list[float]) -> str:
    """Return a mean, and each seed's value where there are several."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({', '.join(f'{v:.2f}' for v in values)})"


if __name__ == "__main__":
    main()
