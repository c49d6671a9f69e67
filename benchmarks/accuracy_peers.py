"""The peers' part of benchmarks/accuracy.py: QAT by Brevitas, torchao (PT2E), torch.ao (FX) and NNCF, in their own environment.

    PEERS_PYTHON benchmarks/accuracy_peers.py [--folder runs/accuracy] [--seeds 0 1 2] [--tools brevitas torchao ...] [--rows ...]

Each starts from the float weights and sees the batches that ``accuracy.py float`` wrote, with SGD (momentum 0.9, Nesterov) and a
cosine; the learning rates are those of our rows. What is evaluated is the prepared (fake-quantized) model, which is the best that
the tool's artifact can be. Imports nothing of this toolkit but the float model's definition.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Row -> (bits of weights, bits of activations, one weight scale a channel, peak learning rate).
ROWS = {
    "W8A8": (8, 8, True, 0.002),
    "W8A8 per tensor": (8, 8, False, 0.002),
    "W4A8": (4, 8, True, 0.005),
    "W4A4": (4, 4, True, 0.01),
    "W3A3": (3, 3, True, 0.01),
}
Example = tuple[Tensor, ...]


def zoo() -> Any:
    """Return the module that defines the float model."""
    path = Path(__file__).resolve().parent.parent / "qat" / "zoo" / "torch.py"
    spec = importlib.util.spec_from_file_location("zoo_torch", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- Brevitas: layers of its own, scales learned in the logarithm ------------------------------------------------------


def brevitas(model: Any, row: str, calibration: list[Tensor]) -> nn.Module:
    """Replace layers by Brevitas' quantized ones; first and last layer with 8-bit weights below 8-bit activations."""
    import brevitas.nn as qnn
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.quant import (
        Int8ActPerTensorFloat,
        Int8WeightPerChannelFloat,
        Int8WeightPerTensorFloat,
        Int32Bias,
        Uint8ActPerTensorFloat,
    )

    if not hasattr(Tensor, "rename"):  # gone from PyTorch 2.13; Brevitas 0.13 drops tensors' names by it
        Tensor.rename = lambda self, *names: self  # type: ignore[attr-defined]
    weights, activations, per_channel, _ = ROWS[row]
    weight_quant = Int8WeightPerChannelFloat if per_channel else Int8WeightPerTensorFloat
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]

    def value(x: Any) -> Tensor:
        return x.value if hasattr(x, "value") else x  # a plain tensor while it calibrates

    def signed(bits: int) -> nn.Module:
        return qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=bits, return_quant_tensor=True)

    def convolution(old: nn.Conv2d) -> nn.Module:
        bits = 8 if activations < 8 and old is layers[0] else weights
        new = qnn.QuantConv2d(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, groups=old.groups, bias=False,
            weight_quant=weight_quant, weight_bit_width=bits,
        )  # fmt: skip
        new.weight.data.copy_(old.weight.data)
        return new

    def rewrite(block: nn.Sequential) -> nn.Sequential:
        conv, norm, *rest = block
        tail = (
            qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=activations, return_quant_tensor=True)
            if rest
            else signed(activations)
        )
        return nn.Sequential(convolution(conv), norm, tail)

    class Residual(nn.Module):
        def __init__(self, old: Any) -> None:
            super().__init__()
            self.layers = nn.Sequential(*(rewrite(block) for block in old.layers))
            self.residual = old.residual
            self.after = signed(activations) if old.residual else nn.Identity()

        def forward(self, x: Any) -> Any:
            return self.after(value(x) + value(self.layers(x))) if self.residual else self.layers(x)

    class Net(nn.Module):
        def __init__(self, old: Any) -> None:
            super().__init__()
            self.entry = signed(8)
            self.features = nn.Sequential(*(rewrite(m) if isinstance(m, nn.Sequential) else Residual(m) for m in old.features))
            self.mean = signed(8)
            fc = old.classifier
            self.classifier = qnn.QuantLinear(
                fc.in_features, fc.out_features, bias=True, weight_quant=weight_quant, bias_quant=Int32Bias,
                weight_bit_width=8 if activations < 8 else weights,
            )  # fmt: skip
            self.classifier.weight.data.copy_(fc.weight.data)
            self.classifier.bias.data.copy_(fc.bias.data)
            self.out = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8)

        def forward(self, x: Tensor) -> Tensor:
            y = value(self.features(self.entry(x))).mean((2, 3))
            out: Tensor = self.out(self.classifier(self.mean(y)))
            return out

    made = Net(model).eval()
    with torch.no_grad(), calibration_mode(made):
        for x in calibration:
            made(x)
    return made


# --- torchao and torch.ao: fake quantization in the graph --------------------------------------------------------------


def torchao(model: nn.Module, row: str, calibration: list[Tensor]) -> nn.Module:
    """Prepare by PT2E with the XNNPACK quantizer that torchao tests with; 8 bits only."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    weights, _, per_channel, _ = ROWS[row]
    qmax = 2 ** (weights - 1) - 1
    config = get_symmetric_quantization_config(
        is_per_channel=per_channel, is_qat=True, weight_qmin=-qmax, weight_qmax=qmax
    )  # fmt: skip
    batch = torch.export.Dim("batch", min=2, max=4096)
    exported = torch.export.export(model.train(), (calibration[0],), dynamic_shapes=({0: batch},)).module()
    prepared = prepare_qat_pt2e(exported, XNNPACKQuantizer().set_global(config))
    allow_exported_model_train_eval(prepared)
    return _observed(prepared, calibration)


def torch_ao(model: nn.Module, row: str, calibration: list[Tensor]) -> nn.Module:
    """Prepare by FX graph mode with fake-quantize modules of the row's bits."""
    from torch.ao.quantization import (
        FakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        QConfig,
        QConfigMapping,
    )
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    weights, activations, per_channel, _ = ROWS[row]

    def config(weight_bits: int, activation_bits: int) -> QConfig:
        qmax = 2 ** (weight_bits - 1) - 1
        scheme = torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric
        observer = MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver
        return QConfig(
            activation=FakeQuantize.with_args(
                observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=2**activation_bits - 1, dtype=torch.quint8
            ),
            weight=FakeQuantize.with_args(observer=observer, quant_min=-qmax, quant_max=qmax, dtype=torch.qint8, qscheme=scheme),
        )

    mapping = QConfigMapping().set_global(config(weights, activations))
    if activations < 8:
        mapping.set_module_name("features.0", config(8, activations)).set_module_name("classifier", config(8, 8))
        mapping.set_module_name("pool", config(8, 8))
    prepared = prepare_qat_fx(model.train(), mapping, (calibration[0],))
    return _observed(prepared, calibration)


def _observed(prepared: nn.Module, calibration: list[Tensor]) -> nn.Module:
    """Show the calibration samples to the observers, without moving BatchNorm's statistics."""
    prepared.eval()
    with torch.no_grad():
        for x in calibration:
            prepared(x)
    return prepared


# --- NNCF --------------------------------------------------------------------------------------------------------------


def nncf(model: nn.Module, row: str, calibration: list[Tensor]) -> nn.Module:
    """Quantize by NNCF, whose quantizers are trainable; 8 bits only."""
    import nncf as tool
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    per_channel = ROWS[row][2]
    weights = QuantizationParameters(per_channel=per_channel)
    made: nn.Module = tool.quantize(
        model.eval(), tool.Dataset(calibration), subset_size=len(calibration),
        advanced_parameters=AdvancedQuantizationParameters(weights_quantization_params=weights),
    )  # fmt: skip
    return made


#: Tool -> (how it prepares a model, the rows that it has).
TOOLS: dict[str, tuple[Callable[[Any, str, list[Tensor]], nn.Module], tuple[str, ...]]] = {
    "Brevitas": (brevitas, tuple(ROWS)),
    "torchao": (torchao, ("W8A8", "W8A8 per tensor", "W4A8")),
    "NNCF": (nncf, ("W8A8", "W8A8 per tensor")),
    "torch.ao": (torch_ao, tuple(ROWS)),
}


def batches(data: dict[str, np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the training batches in their order."""
    for x, y in zip(data["train_x"], data["train_y"], strict=True):
        yield torch.from_numpy(x), torch.from_numpy(y)


def train(model: nn.Module, data: dict[str, np.ndarray], peak: float) -> float:
    """Train for one pass, cosine down to a hundredth; returns the seconds."""
    steps = len(data["train_x"])
    optimizer = torch.optim.SGD(model.parameters(), peak, momentum=0.9, nesterov=True)
    model.train()
    started = time.process_time()
    for step, (x, y) in enumerate(batches(data)):
        optimizer.param_groups[0]["lr"] = peak * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return time.process_time() - started


def right(model: nn.Module, data: dict[str, np.ndarray]) -> np.ndarray:
    """Return which test images are classified rightly."""
    model.eval()
    images = torch.from_numpy(data["test_x"])
    with torch.no_grad():
        logits = torch.cat([model(images[i : i + 500]) for i in range(0, len(images), 500)])
    return np.asarray(logits.argmax(-1).numpy() == data["test_y"])


def measure(folder: Path, tool: str, row: str, seed: int, data: dict[str, np.ndarray]) -> None:
    """Write one row of results, PTQ and QAT."""
    model = zoo().mobilenet_small()
    with np.load(folder / f"float_{seed}.npz") as arrays:
        model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    torch.manual_seed(seed)
    calibration = [torch.from_numpy(x) for x in np.split(data["calibration"], 10)]
    prepared = TOOLS[tool][0](copy.deepcopy(model.eval()), row, calibration)
    found = {f"{tool} PTQ": (right(prepared, data), 0.0)}
    seconds = train(prepared, data, ROWS[row][3])
    found[f"{tool} QAT"] = (right(prepared, data), seconds)
    for name, (hits, took) in found.items():
        entry = {
            "tool": name, "row": row, "seed": seed, "top1": round(100 * float(hits.mean()), 2), "seconds": round(took, 1),
            "runs_in": "prepared model",
        }  # fmt: skip
        stem = f"{name}_{row}_{seed}".replace(" ", "_")
        np.save(folder / "predictions" / f"{stem}.npy", hits)
        (folder / "predictions" / f"{stem}.json").write_text(json.dumps(entry))
        print(json.dumps(entry), flush=True)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--tools", nargs="*", default=list(TOOLS))
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    (given.folder / "predictions").mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        with np.load(given.folder / f"data_{seed}.npz") as arrays:
            data = {name: arrays[name] for name in arrays.files}
        for tool in given.tools:
            for row in (r for r in given.rows if r in TOOLS[tool][1]):
                measure(given.folder, tool, row, seed, data)


if __name__ == "__main__":
    main()
