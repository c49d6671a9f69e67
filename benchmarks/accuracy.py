"""Accuracy of QAT on Fashion-MNIST, MobileNetV2 of 25 convolutions: this toolkit's, PTQ's and the peers', by bits and seed.

    python benchmarks/accuracy.py float --seeds 0 1 2            # float models, and the batches that everybody trains on
    python benchmarks/accuracy.py ours --seeds 0 1 2             # PTQ and QAT, artifacts in ONNX Runtime where it has kernels
    python benchmarks/accuracy.py adaround --seeds 0 1 2         # PTQ with learned rounding, and QAT that starts from it
    PEERS_PYTHON benchmarks/accuracy_peers.py --seeds 0 1 2      # Brevitas, torchao, NNCF, torch.ao, in their own environment
    python benchmarks/accuracy.py table                          # docs/accuracy.json, and the tables for docs/benchmarks.md

Everybody starts from the same float weights and sees the same batches in the same order. Which of the 10,000 test images were
right is kept in the folder, so that McNemar's test compares any two rows.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_table import write_tables

import qat
from qat.planning.recipe import QuantSpec, Recipe, Rule
from qat.runs.datasets import idx
from qat.runs.zoo_torch import mobilenet_small
from qat.runtimes import open_session

BATCH, STEPS, CALIBRATION = 128, 234, 500

#: Row -> (bits of weights, bits of activations, granularity of weights). With activations of 4 and 3 bits the first and the last
#: layer have weights of 8 bits, and the last layer reads 8 bits, as is usual (Esser et al. 2020, section 3).
ROWS: dict[str, tuple[int, int, str]] = {
    "W8A8": (8, 8, "channel"),
    "W8A8 per tensor": (8, 8, "tensor"),
    "W4A8": (4, 8, "channel"),
    "W4A4": (4, 4, "channel"),
    "W3A3": (3, 3, "channel"),
}
#: What is trained with which options; ``control`` is the float model.
TRAINING: dict[str, dict[str, Any]] = {
    "control": {"learning_rate": 0.002, "gradient_clip": None},
    "W8A8": {"learning_rate": 0.002},
    "W8A8 per tensor": {"learning_rate": 0.002},
    "W4A8": {"learning_rate": 0.005},
    "W4A4": {"learning_rate": 0.01},
    "W3A3": {"learning_rate": 0.01},
}


def recipe(row: str, learned: bool) -> Recipe:
    """Return the recipe of a row."""
    weights, activations, granularity = ROWS[row]

    def rule(w: int, a: int, **where: Any) -> Rule:
        spec = QuantSpec(bits=w, symmetric=True, granularity=granularity, learned=learned and w < 8)
        return Rule(weight=spec, activation=QuantSpec(bits=a, learned=learned and a < 8), **where)

    rules = [rule(weights, activations)]
    if activations < 8:
        rules += [rule(8, activations, scope=r"^features\.0"), rule(8, 8, scope="classifier|pool")]
    return Recipe(name=row, rules=tuple(rules))


def dataset() -> Any:
    """Return Fashion-MNIST: Debian's package dataset-fashion-mnist, or the folder that FASHION_MNIST names."""
    return idx(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"), "fashion_mnist", 0.286, 0.353)


def make_float(folder: Path, seed: int) -> None:
    """Train a float model for six epochs; write its weights, and the batches of the fine-tuning in their order."""
    data = dataset()
    path = folder / f"float_{seed}.npz"
    if not path.is_file():
        torch.manual_seed(seed)
        model = mobilenet_small()
        batches = data.batches("train", BATCH, "NCHW", shuffle=seed, flip=True)
        options = {"epochs": 6, "learning_rate": 0.1, "weight_decay": 1e-4, "gradient_clip": None}
        qat.finetune(model, batches, seed=seed, progress=False, **options)
        np.savez(path, **{name: value.numpy() for name, value in model.state_dict().items()})
    steps = []
    for x, y in data.batches("train", BATCH, "NCHW", shuffle=1000 + seed, flip=True):
        steps.append((x, y))
        if len(steps) == STEPS:
            break
    calibration = np.concatenate([x for x, _ in data.batches("train", 50, "NCHW", limit=CALIBRATION)])
    test = list(data.batches("test", 500, "NCHW"))
    np.savez(
        folder / f"data_{seed}.npz",
        train_x=np.stack([x for x, _ in steps]), train_y=np.stack([y for _, y in steps]), calibration=calibration,
        test_x=np.concatenate([x for x, _ in test]), test_y=np.concatenate([y for _, y in test]),
    )  # fmt: skip


def load_float(folder: Path, seed: int) -> torch.nn.Module:
    """Return the float model of a seed."""
    model = mobilenet_small()
    with np.load(folder / f"float_{seed}.npz") as arrays:
        model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return model.eval()


def load_data(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Return the batches, the calibration's samples and the test images of a seed."""
    with np.load(folder / f"data_{seed}.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def train(model: Any, data: dict[str, np.ndarray], seed: int, options: dict[str, Any]) -> float:
    """Train on the batches in their order and return the CPU seconds."""
    batches = list(zip(data["train_x"], data["train_y"], strict=True))
    started = time.process_time()
    qat.finetune(model, batches, seed=seed, progress=False, **options)
    return time.process_time() - started


class Results:
    """The rows so far, in ``results.json``; predictions beside it, one ``.npy`` a row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "predictions").mkdir(parents=True, exist_ok=True)

    def add(self, tool: str, row: str, seed: int, logits: np.ndarray, labels: np.ndarray, seconds: float, runs_in: str) -> None:
        """Write one row: a method at certain bits with one seed."""
        right = logits.argmax(-1) == labels
        entry = {
            "tool": tool, "row": row, "seed": seed, "top1": round(100 * float(right.mean()), 2), "seconds": round(seconds, 1),
            "runs_in": runs_in,
        }  # fmt: skip
        name = f"{tool}_{row}_{seed}".replace(" ", "_")
        np.save(self.folder / "predictions" / f"{name}.npy", right)
        (self.folder / "predictions" / f"{name}.json").write_text(json.dumps(entry))
        print(json.dumps(entry), flush=True)


def predicted(model: Any, images: np.ndarray) -> np.ndarray:
    """Return the eval-mode outputs of a model or of an artifact (a path)."""
    if isinstance(model, Path):
        session = open_session(model)
        return np.concatenate([session.run(images[i : i + 500])[0] for i in range(0, len(images), 500)])
    model.eval()
    with torch.no_grad():
        return np.concatenate([model(torch.from_numpy(images[i : i + 500])).numpy() for i in range(0, len(images), 500)])


def ours(folder: Path, seed: int, rows: list[str], options: dict[str, Any], tool: str, learned: bool) -> None:
    """Measure the float model, its control, and PTQ and QAT of each row."""
    results, float_model, data = Results(folder), load_float(folder, seed), load_data(folder, seed)
    test_x, test_y = data["test_x"], data["test_y"]
    if "control" in rows:
        results.add("float", "float", seed, predicted(float_model, test_x), test_y, 0.0, "PyTorch")
        control = load_float(folder, seed)
        seconds = train(control, data, seed, TRAINING["control"] | options)
        results.add("float", "control", seed, predicted(control, test_x), test_y, seconds, "PyTorch")
    for row in (r for r in rows if r in ROWS):
        prepared = calibrated(float_model, data["calibration"], row, learned)
        where = "prepared model" if prepared.plan.target.name == "simulated" else "ONNX Runtime"
        results.add(f"{tool} PTQ", row, seed, deployed(prepared, folder / f"ptq_{row}_{seed}", test_x), test_y, 0.0, where)
        seconds = train(prepared, data, seed, TRAINING[row] | options)
        results.add(f"{tool} QAT", row, seed, deployed(prepared, folder / f"qat_{row}_{seed}", test_x), test_y, seconds, where)


def calibrated(float_model: torch.nn.Module, samples: np.ndarray, row: str, learned: bool = False) -> Any:
    """Return the float model prepared for a row's bits and calibrated; below 8 bits of activations there is no runtime."""
    low = ROWS[row][1] < 8
    target = "simulated" if low else "onnxruntime"
    prepared = qat.prepare(float_model, torch.from_numpy(samples[:2]), recipe(row, learned), target)
    return qat.calibrate(prepared, np.split(samples, 10), estimator="mse" if low else None)


def deployed(prepared: Any, path: Path, images: np.ndarray) -> np.ndarray:
    """Return the outputs of a prepared model's artifact, of the model itself where it has no runtime."""
    if prepared.plan.target.name == "simulated":
        return predicted(prepared, images)
    return predicted(qat.export(prepared, Path(f"{path}.onnx".replace(" ", "_")), overwrite=True).path, images)


def adaround(folder: Path, seed: int, rows: list[str], options: dict[str, Any], tool: str) -> None:
    """Measure PTQ of each row with learned rounding, and QAT that starts from it."""
    results, float_model, data = Results(folder), load_float(folder, seed), load_data(folder, seed)
    samples, test_x, test_y = data["calibration"], data["test_x"], data["test_y"]
    for row in (r for r in rows if r in ROWS):
        prepared = calibrated(float_model, samples, row)
        started = time.process_time()
        qat.adaround(prepared, np.split(samples, 10))
        seconds = time.process_time() - started
        where = "prepared model" if prepared.plan.target.name == "simulated" else "ONNX Runtime"
        outputs = deployed(prepared, folder / f"adaround_{row}_{seed}", test_x)
        results.add(f"{tool} AdaRound", row, seed, outputs, test_y, seconds, where)
        seconds += train(prepared, data, seed, TRAINING[row] | options)
        outputs = deployed(prepared, folder / f"adaround_qat_{row}_{seed}", test_x)
        results.add(f"{tool} AdaRound, then QAT", row, seed, outputs, test_y, seconds, where)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("float", "ours", "adaround", "table"))
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="*", default=["control", *ROWS])
    parser.add_argument("--tool", default="qat", help="the name under which the results stand")
    parser.add_argument("--options", type=json.loads, default={}, help="training options, as JSON")
    parser.add_argument("--teacher", action="store_true", help="train on the float model's outputs, beside the labels")
    parser.add_argument("--learned", action=argparse.BooleanOptionalAction, default=False, help="learned scales below 8 bits")
    given = parser.parse_args()
    logging.getLogger("qat").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.what == "table":
        write_tables(given.folder)
        return
    for seed in given.seeds:
        options = given.options | ({"teacher": load_float(given.folder, seed)} if given.teacher else {})
        if given.what == "float":
            make_float(given.folder, seed)
        elif given.what == "adaround":
            adaround(given.folder, seed, given.rows, options, given.tool)
        else:
            ours(given.folder, seed, given.rows, options, given.tool, given.learned)


if __name__ == "__main__":
    main()
