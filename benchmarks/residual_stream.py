"""Transformers with their residual stream in 8 bits and in float: a ViT, the same with outliers, and MiniLM on text.

    python benchmarks/residual_stream.py vit                # ViT, trained here on Fashion-MNIST
    python benchmarks/residual_stream.py channels           # the same ViT, channels of its norms 256 times as large
    python benchmarks/residual_stream.py stream             # the same ViT, its stream 300 away from zero
    python benchmarks/residual_stream.py minilm             # all-MiniLM-L6-v2 with its own weights, on docstrings

Prints the rows of docs/benchmarks.md. All start from the same float weights, calibrate on the same samples and train on the same
batches; seeds are fixed. A figure is that of the artifact in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import dataset
from architectures.torch_transformers import ViT
from docstrings import sentence_model, token_ids
from outliers import lift_stream, raise_all_channels, same_function
from torch import Tensor, nn

import qat
from qat.baselines.ptq import float_baseline
from qat.runtimes import open_session

RECIPES = ("static_wi8_ai8", "static_wi8_ai8_float_residual")
PTQ = ("onnxruntime_static_minmax", "onnxruntime_static_percentile", "onnxruntime_dynamic")
BATCH = 128
#: For the probe and the training of MiniLM, and as many to judge it by.
TEXTS = 500

#: Figures of a model by name, from its outputs.
Judge = Callable[[np.ndarray], dict[str, str]]


@dataclass(frozen=True)
class Case:
    """A float model and what is done with it: ``train`` trains it, or a prepared one, in place."""

    model: nn.Module
    calibration: list[np.ndarray]
    test: list[np.ndarray]
    judge: Judge
    train: Callable[[nn.Module], None]
    has_control: bool = True


class Sentences(nn.Module):
    """Token ids without padding to the mean of BERT's last states, which is the embedding of a sentence."""

    def __init__(self, bert: Any) -> None:
        super().__init__()
        self.embeddings, self.encoder = bert.embeddings, bert.encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(self.embeddings(ids))[0].mean(1)


def outputs(path: Path, batches: list[np.ndarray]) -> np.ndarray:
    """Return the outputs of a file in its runtime."""
    session = open_session(path)
    return np.concatenate([session.run(x)[0] for x in batches])


def vit(folder: Path, change: Callable[[nn.Module], None] | None = None) -> Case:
    """Return the ViT, trained where the folder has no weights yet; ``change`` keeps its float function."""
    data, path = dataset(), folder / "vit.npz"
    torch.manual_seed(0)
    model = ViT(size=28, patch=7, width=64, depth=4, channels=1, heads=4)
    if path.is_file():
        with np.load(path) as arrays:
            model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    else:
        batches = data.batches("train", BATCH, "NCHW", shuffle=0, flip=True)
        options = {"max_steps": 700, "epochs": 2, "optimizer": "adamw", "learning_rate": 2e-3, "warmup_steps": 50}
        qat.finetune(model, batches, seed=0, progress=False, **options)
        np.savez(path, **{name: value.numpy() for name, value in model.state_dict().items()})
    calibration = [x for x, _ in data.batches("train", 50, "NCHW", limit=500)]
    test = list(data.batches("test", 500, "NCHW"))
    if change is not None:
        model = same_function(model, torch.from_numpy(test[0][0]), change)
    labels = np.concatenate([y for _, y in test])

    def judge(logits: np.ndarray) -> dict[str, str]:
        return {"top-1 %": f"{100 * (logits.argmax(-1) == labels).mean():.2f}"}

    def train(trained: nn.Module) -> None:
        batches = data.batches("train", BATCH, "NCHW", shuffle=1, flip=True)
        options = {"max_steps": 60, "optimizer": "adamw", "learning_rate": 1e-4}
        qat.finetune(trained, batches, seed=1, progress=False, **options)

    return Case(model.eval(), calibration, [x for x, _ in test], judge, train)


def minilm(folder: Path) -> Case:
    """Return all-MiniLM-L6-v2, judged by a linear probe on its float embeddings, and by the nearest neighbour of each text."""
    from sklearn.linear_model import LogisticRegression

    bert, tokenizer = sentence_model(folder)
    ids, labels = (part[: 2 * TEXTS] for part in token_ids(tokenizer))
    model, half = Sentences(bert).eval(), TEXTS
    with torch.no_grad():
        embedded = np.concatenate([model(torch.from_numpy(part)).numpy() for part in np.array_split(ids, 50)])
    probe = LogisticRegression(max_iter=2000).fit(embedded[:half], labels[:half])

    def neighbours(x: np.ndarray) -> np.ndarray:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return (x @ x.T - 2 * np.eye(len(x))).argmax(1)

    def judge(found: np.ndarray) -> dict[str, str]:
        want = embedded[half:]
        cosine = (found * want).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(want, axis=1)
        return {
            "probe %": f"{100 * (probe.predict(found) == labels[half:]).mean():.2f}",
            "same neighbour %": f"{100 * (neighbours(found) == neighbours(want)).mean():.1f}",
            "cosine": f"{cosine.mean():.4f}",
        }

    def train(trained: nn.Module) -> None:
        qat.finetune(trained, ids[:half], labels="none", steps=15, learning_rate=1e-5, seed=0, progress=False)

    calibration, test = np.array_split(ids[:100], 5), np.array_split(ids[half:], 20)
    return Case(model, calibration, test, judge, train, has_control=False)


CASES: dict[str, Callable[[Path], Case]] = {
    "vit": vit,
    "channels": lambda folder: vit(folder, raise_all_channels),
    "stream": lambda folder: vit(folder, lift_stream),
    "minilm": minilm,
}


def rows(name: str, case: Case, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each method with its figures."""

    def of(path: Path) -> dict[str, str]:
        return case.judge(outputs(path, case.test)) | {"MB": f"{path.stat().st_size / 1e6:.2f}"}

    baselines = qat.ptq_baselines(case.model, case.calibration, folder / name, overwrite=True, progress=False)
    made = {baseline.name: baseline for baseline in baselines}
    yield "float", of(made["float"].path)
    if case.has_control:
        control = copy.deepcopy(case.model)
        case.train(control)
        yield "float, trained as long", of(float_baseline(control, case.test[0][:2], folder / name, "control", "control").path)
    for tool in PTQ:
        path = made[tool].path
        yield (
            tool.replace("onnxruntime_", "ONNX Runtime, ").replace("_", " "),
            of(path) if path else {"top-1 %": made[tool].error},
        )
    for recipe in RECIPES:
        prepared = qat.calibrate(qat.prepare(case.model, case.calibration[0][:2], recipe), case.calibration, progress=False)
        for step in ("calibrated", "trained"):
            if step == "trained":
                case.train(prepared)
            artifact = qat.export(prepared, folder / name / f"{recipe}_{step}.onnx", verify=case.test[:4], overwrite=True)
            yield f"`{recipe}`, {step}", of(artifact.path) | {"outputs equal %": f"{100 * artifact.parity.exact:.2f}"}


def main() -> None:
    """Print the rows of the cases that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--folder", type=Path, default=Path("runs/residual_stream"))
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("qat").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.cases:
        columns: list[str] = []
        for method, figures in rows(name, CASES[name](given.folder), given.folder):
            if not columns:
                columns = [*figures, "outputs equal %"]
                print(f"\n**{name}**\n\n| method | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
            print(f"| {method} | {' | '.join(figures.get(column, '') for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
