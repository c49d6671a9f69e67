"""Artifacts that were broken on purpose, one fault each: what ``qat diagnose`` has to name. Tests and a benchmark share them.

A maker gets a kit (framework, target, seed, severity) and a folder; it writes a float file and a quantized one that is broken.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from broken_nets import attention_of, convolutions_of, residual_of

import qat
from qat.baselines.ptq import float_baseline


@dataclass(frozen=True)
class Kit:
    """By what artifacts are made.

    Attributes:
        framework: torch or keras.
        target: litert or onnxruntime; the second one's artifacts are ``.onnx``.
        seed: of weights and data.
        severity: 1 for faults that are seen at once, less for slighter ones.
        data: inputs ``[samples, 28, 28, 1]``.
        labels: of the data.
        width: of the network's layers.
        epochs: of its training: answers need not be good, but must depend on the input.
    """

    framework: str = "torch"
    target: str = "litert"
    seed: int = 0
    severity: float = 1.0
    data: np.ndarray = field(default_factory=lambda: digits()[0], repr=False)
    labels: np.ndarray = field(default_factory=lambda: digits()[1], repr=False)
    width: int = 16
    epochs: int = 8

    @property
    def x(self) -> np.ndarray:
        """The data in the framework's layout."""
        return np.ascontiguousarray(self.data.transpose(0, 3, 1, 2)) if self.framework == "torch" else self.data

    @property
    def held_out(self) -> np.ndarray:
        """The samples of a diagnosis, as the float file takes them: none of those that calibrate."""
        kept = self.x[len(self.x) // 2 :][:200]
        return np.ascontiguousarray(kept.transpose(0, 2, 3, 1)) if self.framework == "torch" and self.target == "litert" else kept

    def calibrating(self, factor: float = 1.0) -> list[np.ndarray]:
        """The samples that calibrate, in batches."""
        return [self.x[i : i + 32] * np.float32(factor) for i in range(0, min(len(self.x) // 2, 256), 32)]


@dataclass(frozen=True)
class Files:
    """Two files, and the samples to diagnose them with."""

    float: Path
    quantized: Path
    x: np.ndarray


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return handwritten digits as pictures ``[samples, 28, 28, 1]`` from 0 to 1, and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    large = np.kron(found.images / 16, np.ones((1, 3, 3)))
    return np.pad(large, ((0, 0), (2, 2), (2, 2)))[..., None].astype(np.float32)[:800], found.target[:800]


def float_file(kit: Kit, net: object, folder: Path) -> Path:
    made = float_baseline(net, kit.x[:1], folder, target=kit.target)
    assert made.path is not None, made.error
    return made.path


def prepared(kit: Kit, net: object, recipe: str = "static_wi8_ai8", factor: float = 1.0, target: str = "") -> object:
    model = qat.prepare(net, kit.x[:2], recipe, target or kit.target)
    return qat.calibrate(model, kit.calibrating(factor))


def exported(kit: Kit, model: object, folder: Path) -> Path:
    path = folder / ("broken" + (".tflite" if kit.target == "litert" else ".onnx"))
    qat.export(model, path, overwrite=True)
    return path


def plain(kit: Kit, folder: Path) -> Files:
    """Return a healthy pair."""
    net = convolutions_of(kit)
    return Files(float_file(kit, net, folder), exported(kit, prepared(kit, net), folder), kit.held_out)


def _of_net(kit: Kit, folder: Path, net: object, **options: object) -> Files:
    return Files(float_file(kit, net, folder), exported(kit, prepared(kit, net, **options), folder), kit.held_out)


def input_preprocessing(kit: Kit, folder: Path) -> Files:
    """Calibrated on pixels from 0 to 255 (or a smaller factor), run on pixels from 0 to 1."""
    return _of_net(kit, folder, convolutions_of(kit), factor=255.0 * kit.severity)


def input_too_narrow(kit: Kit, folder: Path) -> Files:
    """Calibrated on darker pictures than it is run on."""
    return _of_net(kit, folder, convolutions_of(kit), factor=0.25 / kit.severity)


def _with_range(kit: Kit, folder: Path, place: Callable[[list[str]], str], factor: float) -> Files:
    net = convolutions_of(kit)
    model = prepared(kit, net)
    names = list(model.grids)
    grid = model.grids[place(names)]
    encoding = grid.encoding
    grid.set_range(*(float(encoding.scale) * limit * factor for limit in (encoding.lo, encoding.hi)))
    return Files(float_file(kit, net, folder), exported(kit, model, folder), kit.held_out)


def output_range(kit: Kit, folder: Path) -> Files:
    """The output's range is a fraction of what it needs."""
    return _with_range(kit, folder, lambda names: names[-1], 0.25 / kit.severity)


def saturated_range(kit: Kit, folder: Path) -> Files:
    """The range within the network is a fraction of what it needs."""
    return _with_range(kit, folder, lambda names: names[2], 0.2 / kit.severity)


def loose_range(kit: Kit, folder: Path) -> Files:
    """The range within the network is many times what it needs."""
    return _with_range(kit, folder, lambda names: names[2], 40 * kit.severity)


def outlier_range(kit: Kit, folder: Path) -> Files:
    """A channel that is rarely active, and then very large."""
    return _of_net(kit, folder, convolutions_of(kit, detector=60 * kit.severity))


def weight_channel(kit: Kit, folder: Path) -> Files:
    """One weight scale, and a channel far larger than its neighbours."""
    return _of_net(kit, folder, convolutions_of(kit, large_channel=100 * kit.severity), recipe="static_wi8_ai8_per_tensor")


def dead_channels(kit: Kit, folder: Path) -> Files:
    """Channels whose weights are gone in the quantized file."""
    whole, pruned = convolutions_of(kit), convolutions_of(kit, dead=max(int(6 * kit.severity), 1))
    return Files(float_file(kit, whole, folder), exported(kit, prepared(kit, pruned), folder), kit.held_out)


def other_weights(kit: Kit, folder: Path) -> Files:
    """The quantized file is made of another model of the same architecture."""
    other = dataclasses.replace(kit, seed=kit.seed + 1)
    return Files(
        float_file(kit, convolutions_of(kit), folder),
        exported(kit, prepared(kit, convolutions_of(other)), folder),
        kit.held_out,
    )


def bias_overflow(kit: Kit, folder: Path) -> Files:
    """The scale of a channel with a large bias is so small that the bias does not fit into int32."""
    files = plain(kit, folder)
    if kit.target == "litert":
        _overflow_tflite(files.quantized, kit.severity)
    else:
        _overflow_onnx(files.quantized, kit.severity)
    return files


def prescribed_scale(kit: Kit, folder: Path) -> Files:
    """Attention over so many tokens that its weights are fractions of 1/256, the scale that other tools prescribe."""
    net = attention_of(kit)
    model = prepared(kit, net)
    for grid in model.grids.values():
        if grid.group.probabilities:
            grid.set_range(0.0, 1.0)
    return Files(float_file(kit, net, folder), exported(kit, model, folder), kit.held_out)


def residual_stream(kit: Kit, folder: Path) -> Files:
    """A transformer whose residual stream has channels far larger than the others."""
    return _of_net(kit, folder, residual_of(kit, outlier=200 * kit.severity))


def saturating_pairs(kit: Kit, folder: Path) -> Files:
    """Weights of 8 bits that are all large and of one sign, on bright pictures."""
    net = convolutions_of(kit, positive=True)
    return Files(float_file(kit, net, folder), exported(kit, prepared(kit, net, target="onnxruntime_vnni"), folder), kit.held_out)


def too_little_data(kit: Kit, folder: Path) -> Files:
    """A healthy file, and few samples."""
    files = plain(kit, folder)
    return dataclasses.replace(files, x=files.x[: int(20 / kit.severity)])


#: The cause that each maker's artifact has.
BROKEN: dict[str, tuple[str, Callable[[Kit, Path], Files]]] = {
    "calibrated on 0..255": ("input_preprocessing", input_preprocessing),
    "calibrated on darker pictures": ("input_preprocessing", input_too_narrow),
    "output range too narrow": ("output_range", output_range),
    "inner range too narrow": ("saturated_range", saturated_range),
    "inner range too wide": ("loose_range", loose_range),
    "outliers in a channel": ("outlier_range", outlier_range),
    "a large channel, one scale": ("weight_channel", weight_channel),
    "channels without weights": ("dead_channels", dead_channels),
    "another model's weights": ("other_weights", other_weights),
    "bias beyond int32": ("bias_overflow", bias_overflow),
    "attention over many tokens": ("prescribed_scale", prescribed_scale),
    "residual stream with outliers": ("residual_stream", residual_stream),
    "U8S8 with large weights": ("saturating_pairs", saturating_pairs),
    "twenty samples": ("too_little_data", too_little_data),
}
#: Faults that one format alone can have.
ONLY = {"U8S8 with large weights": "onnxruntime"}


def _overflow_onnx(path: Path, severity: float) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    tensors = {t.name: t for t in model.graph.initializer}
    name = [n.removesuffix(".weight") for n in tensors if n.endswith(".weight")][1]
    arrays = {part: numpy_helper.to_array(tensors[f"{name}.{part}"]) for part in ("weight", "weight.scale", "bias", "bias.scale")}
    for part, array in _overflown(arrays, severity).items():
        tensors[f"{name}.{part}"].CopyFrom(numpy_helper.from_array(array, f"{name}.{part}"))
    onnx.save(model, str(path))


def _overflown(arrays: dict[str, np.ndarray], severity: float) -> dict[str, np.ndarray]:
    """Return weight, bias and scales with half the channels on a grid that is too fine."""
    weight, scale, bias = (arrays[part].astype(np.float64) for part in ("weight", "weight.scale", "bias"))
    many = len(scale) // 2
    factor = np.ones(len(scale))
    factor[:many] = 1e-8 / severity
    limit = 2**31 - 1
    spread = [-1, *[1] * (weight.ndim - 1)]
    return {
        "weight": np.clip(np.rint(weight / factor.reshape(spread)), -127, 127).astype(arrays["weight"].dtype),
        "weight.scale": (scale * factor).astype(np.float32),
        "bias": np.clip(np.rint(np.where(bias == 0, 1, bias) / factor), -limit, limit).astype(np.int32),
        "bias.scale": (arrays["bias.scale"] * factor).astype(np.float32),
    }


def _overflow_tflite(path: Path, severity: float) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    convolution = [op for op in graph.operators if len(op.inputs) == 3][2]
    weight, bias = (graph.tensors[i] for i in convolution.inputs[1:])
    shape, many = [int(n) for n in weight.shape], len(weight.quantization.scale)
    arrays = {
        "weight": np.frombuffer(bytes(model.buffers[weight.buffer].data), np.int8).reshape(shape),
        "weight.scale": np.asarray(weight.quantization.scale, np.float32),
        "bias": np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32),
        "bias.scale": np.asarray(bias.quantization.scale, np.float32),
    }
    assert shape[0] == many  # a plain convolution, whose output channels come first
    found = _overflown(arrays, severity)
    for tensor, part in ((weight, "weight"), (bias, "bias")):
        model.buffers[tensor.buffer].data = np.frombuffer(found[part].tobytes(), np.uint8)
        tensor.quantization.scale = found[f"{part}.scale"]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
