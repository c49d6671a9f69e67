"""Sensitivity of layers: what the exact and the fast way cost, and how alike they order the layers.

    python benchmarks/sensitivity.py [--only NAME ...] [--output docs/diagnosis.md]

Every row is a process of its own. The figures are merged into sensitivity.json beside the page, from which its table is written;
rows that are there are kept, unless named with ``--only``. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

import numpy as np
from scipy import stats

BEGIN, END = "<!-- sensitivity -->\n", "<!-- end -->"
PARTS = ("both", "weight", "activation")
#: Of the training of nets that are trained here, at batches of 128.
STEPS = 150


@dataclass(frozen=True)
class Case:
    """A float model with its data: calibration inputs, and batches that are measured on."""

    model: Any
    calibration: list[Any]
    data: list[Any]
    weights: str
    target: str | None = None
    recipe: str = "static_wi8_ai8"


def of_config(name: str, samples: int = 500) -> Callable[[], Case]:
    """Return a maker of a shipped configuration's model, trained for :data:`STEPS` steps."""

    def make() -> Case:
        from dataclasses import replace

        from rich.console import Console

        from qat.runs.config import load_run
        from qat.runs.data import RunData
        from qat.runs.float_model import trained
        from qat.runs.job import Job
        from qat.runs.shipped import find

        path = find(Path(name))
        config = load_run(path)
        short = replace(config.float_training, epochs=1, max_steps=STEPS)
        config = config.model_copy(update={"float_training": short})
        job = Job.of(config, path.parent, Path(tempfile.mkdtemp()), Console(stderr=True))
        data = RunData(config, path.parent)
        model = trained(job, data).model
        return Case(model, data.calibration(), list(data.batches("validation", samples)), "trained", config.target, config.recipe)

    return make


def of_architecture(key: str, samples: int = 64) -> Callable[[], Case]:
    """Return a maker of a net of the coverage table, with random weights and settled BatchNorms, on coloured digits."""

    def make() -> Case:
        from architectures import ARCHITECTURES
        from coverage_row import CALIBRATION, settle
        from coverage_row import samples as drawn

        (architecture,) = (a for a in ARCHITECTURES if a.key == key)
        if architecture.framework == "torch":
            import torch

            torch.manual_seed(0)
        model = architecture.build()
        settle(model, architecture.framework, drawn(architecture, CALIBRATION, 1)[0])
        inputs = [drawn(architecture, samples, seed)[0] for seed in (1, 2)]
        calibration, held_out = (x[0] if len(x) == 1 else x for x in inputs)
        return Case(model, [calibration], [held_out], "random")

    return make


def lite0() -> Case:
    """Return EfficientNet-Lite0 with its ImageNet weights, on crops of scikit-image's pictures, 112 pixels wide."""
    from architectures.torch_mobile import efficientnet_lite0
    from files_classifier import pictures

    made = [np.ascontiguousarray(pictures(64, seed)[:, ::2, ::2].transpose(0, 3, 1, 2)) for seed in (0, 1)]
    calibration, held_out = ((x.astype(np.float32) - 127) / 128 for x in made)
    return Case(efficientnet_lite0().eval(), [calibration], [held_out], "ImageNet")


ROWS: dict[str, Callable[[], Case]] = {
    "MobileNetV2, small, PyTorch": of_config("fashion_mnist_torch"),
    "the same, one scale a weight": of_config("fashion_mnist_torch_per_tensor"),
    "MobileNetV2, small, Keras": of_config("fashion_mnist_keras"),
    "EfficientNet-Lite0": lite0,
    "MobileNetV2": of_architecture("torch/MobileNetV2"),
    "ResNet-18": of_architecture("torch/ResNet-18"),
    "MobileNetV3-Small": of_architecture("torch/MobileNetV3-Small"),
    "ViT-tiny": of_architecture("torch/ViT-tiny"),
    "BERT-mini": of_architecture("torch/BERT-mini"),
    "U-Net": of_architecture("torch/U-Net", 16),
    "MobileNetV2, Keras": of_architecture("keras/MobileNetV2"),
    "Transformer, Keras": of_architecture("keras/Transformer"),
}


def measure(case: Case) -> dict[str, Any]:
    """Return the figures of a row."""
    import qat
    from qat.analysis.sensitivity import exact, fast
    from qat.analysis.sensitivity.judge import Judge
    from qat.analysis.sensitivity.layers import layers_of
    from qat.frameworks import input_count
    from qat.system.samples import first_of_pair

    example = first_of_pair(case.data[0], input_count(case.model))
    prepared = qat.calibrate(qat.prepare(case.model, example, case.recipe, case.target), case.calibration, progress=False)
    judge = Judge(prepared, case.data, None)
    layers = layers_of(prepared.plan)
    row: dict[str, Any] = {"weights": case.weights, "samples": judge.samples, "layers": len(layers), "rank": {}}
    for part in PARTS:
        variants = [variant for layer in layers if (variant := layer.variant(part))]
        started = time.perf_counter()
        losses = [score.loss for score in exact.measured(judge, variants)]
        measured = time.perf_counter()
        estimates = fast.estimated(judge, variants)
        done = time.perf_counter()
        row["rank"][part] = float(stats.spearmanr(losses, estimates).statistic)
        if part == "both":
            row |= {
                "exact_evaluations": exact.evaluations(prepared.plan, variants), "exact_seconds": measured - started,
                "fast_evaluations": fast.evaluations(judge), "fast_seconds": done - measured,
                "sum_of_losses": sum(losses), "loss": judge.score(whole(judge, prepared)).loss,
            }  # fmt: skip
    return row


def whole(judge: Any, prepared: Any) -> list[Any]:
    """Return the rows of the model with everything quantized."""
    return [judge.rows(i, judge.adapter.forward(prepared, inputs)) for i, inputs in enumerate(judge.inputs)]


def table(rows: dict[str, Any]) -> str:
    """Return the rows as Markdown."""
    titles = ("net", "weights", "samples", "layers", "exact: evaluations, s", "fast: evaluations, s", "rank", "sum")
    lines = [f"| {' | '.join(titles)} |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    for name, row in rows.items():
        ways = [f"{row[f'{way}_evaluations']:.0f}, {row[f'{way}_seconds']:.1f}" for way in ("exact", "fast")]
        ranks = ", ".join(f"{row['rank'][part]:.2f}" for part in PARTS)
        share = f"{row['sum_of_losses'] / row['loss']:.2g}"
        lines.append(
            "| " + " | ".join([name, row["weights"], str(row["samples"]), str(row["layers"]), *ways, ranks, share]) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the rows that are missing or named, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], choices=ROWS, metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "docs" / "diagnosis.md")
    parser.add_argument("--row", type=Path, help=argparse.SUPPRESS)  # measure one row in this process, into this file
    options = parser.parse_args()
    if options.row:
        options.row.write_text(json.dumps(measure(ROWS[options.only[0]]())))
        return
    if not options.output.exists():
        parser.error(f"--output {options.output}: there is no such document; the table replaces the one that it holds")
    kept = options.output.with_name("sensitivity.json")
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in options.only or [name for name in ROWS if name not in rows]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "row.json"
            subprocess.run([sys.executable, __file__, "--only", name, "--row", str(path)], check=True)
            rows[name] = json.loads(path.read_text())
        print(name, rows[name], flush=True)
        rows = {name: rows[name] for name in ROWS if name in rows}
        kept.write_text(json.dumps(rows, indent=1) + "\n")
    text = options.output.read_text()
    before, _, rest = text.partition(BEGIN)
    options.output.write_text(before + BEGIN + table(rows) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
