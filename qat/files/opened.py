"""A float model that is given as a file or a factory, opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qat import api
from qat.errors import ConfigError, CustomOperatorError, DataError
from qat.exporters.exporter import exporter_of
from qat.frameworks import adapter_for, framework_of
from qat.runs.float_model import is_factory, made_by, of_file
from qat.runtimes import FORMATS, TensorInfo, format_of, open_session
from qat.system.ctrl_c import deferred
from qat.system.given_files import check_file
from qat.system.silence import quiet
from qat.typing import Adapter, Model

from .data import Normalization, Samples, arrays_of, samples_for
from .inputs import Wanted, batches, joined, with_axes
from .request import Request

#: The suffix of what is made of a file, by the file's own.
SUFFIXES = {".onnx": ".onnx", ".tflite": ".tflite", ".keras": ".tflite"}
#: What may be quantized, for messages.
KINDS = ".onnx, .tflite, .keras, .task, or a factory package.module:function"


@dataclass(frozen=True)
class Opened:
    """A float model.

    Attributes:
        name: of the results: the file's name without its suffix, or the factory's function.
        path: of the file; None of a factory.
        model: the model; of an ``.onnx`` or ``.tflite`` what :func:`qat.load` returns; None where another tool reads the file.
        samples: its inputs, some held out at the end.
        batch: how many samples it takes at once.
        suffix: of the files that are made of it.
    """

    name: str
    path: Path | None
    model: Any
    samples: Samples
    batch: int
    suffix: str

    @property
    def bytes(self) -> int:
        """The size of the file; 0 of a factory."""
        return 0 if self.path is None else self.path.stat().st_size

    @property
    def adapter(self) -> Adapter:
        """The adapter of the model's framework."""
        framework = framework_of(self.model)
        if framework == "tf_keras":
            raise ConfigError(f"{self.name}: a tf_keras model is not quantized as a file: load it with Keras 3")
        return adapter_for(framework)

    def outputs(self, model: Model, batches: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
        """Return a model's outputs for batches, joined."""
        return joined([self.adapter.predict(model, *batch) for batch in batches], self.batch, self.samples.axes)


def open_data(path: Path, data: Any, request: Request, batch: int) -> Opened:
    """Open a file for another tool, which reads the file itself: a ``.keras`` file's model alone is loaded here."""
    if path.suffix == ".keras":
        return open_float(path, data, request, batch)
    samples, batch = _data_of_artifact(path, data, request, batch)
    return Opened(path.stem, path, None, samples, batch, path.suffix)


def open_float(source: str | Path, data: Any, request: Request, batch: int) -> Opened:
    """Open a float model, and read its data.

    Args:
        source: a path (``.onnx``, ``.tflite``, ``.keras``), or ``package.module:function``.
        data: see :func:`qat.files.data.samples_for`.
        request: the options.
        batch: how many samples the model takes at once where that is free.

    Raises:
        DataError, ConfigError, CaptureError: the file or the data cannot be read, or do not fit each other.
    """
    text, path = str(source), Path(source)
    if path.suffix in FORMATS:
        return _of_artifact(path, data, request, batch)
    if path.suffix == ".keras":
        with deferred(), quiet():
            adapter_for("keras")
        model: Any = of_file(path)
        opened = Opened(path.stem, path, model, Samples((), "", ()), batch, ".tflite")
        wanted = [Wanted(x.name, tuple(x.shape), np.dtype(x.dtype).name) for x in model.inputs]
    elif is_factory(text):
        model = made_by(text, {}, "the factory")
        name, suffix = text.rpartition(":")[2], ".onnx" if framework_of(model) == "torch" else ".tflite"
        opened = Opened(name, None, model, Samples((), "", ()), batch, suffix)
        if framework_of(model) == "torch":
            return replace(opened, samples=_of_module(data, request, text))
        wanted = [Wanted(x.name, tuple(x.shape), np.dtype(x.dtype).name) for x in model.inputs]
    else:
        raise DataError(f"{text} is nothing that can be quantized: give {KINDS}")
    return replace(opened, samples=_samples(wanted, data, request, None))


def _samples(wanted: Sequence[Wanted], data: Any, request: Request, known: Normalization | None) -> Samples:
    return samples_for([w.sized(request.size) for w in wanted], data, request.scale, known, request.samples, request.seed)


def _of_module(data: Any, request: Request, text: str) -> Samples:
    """Return the samples of a PyTorch module, whose inputs' names and sizes are those of its data."""
    if isinstance(data, (str, Path)) and Path(data).suffix in (".npz", ".npy"):
        arrays = arrays_of(Path(data))
        named = arrays if isinstance(arrays, dict) else {"input": arrays}
        return _samples([Wanted(name, (None, *x.shape[1:]), x.dtype.name) for name, x in named.items()], data, request, None)
    if request.size is None:
        raise DataError(f"{text}: the sizes of a module's inputs follow from its data: give an .npz, or a size, HEIGHTxWIDTH")
    return _samples([Wanted("input", (None, 3, *request.size))], data, request, None)


def _of_artifact(path: Path, data: Any, request: Request, batch: int) -> Opened:
    samples, batch = _data_of_artifact(path, data, request, batch)
    model = api.load(path, batches(samples.arrays, batch, samples.axes)[0])
    return Opened(path.stem, path, model, samples, batch, path.suffix)


def _data_of_artifact(path: Path, data: Any, request: Request, batch: int) -> tuple[Samples, int]:
    """Return the samples of an ``.onnx`` or ``.tflite``, and the batch in which it takes them."""
    check_file(path)
    try:
        inputs = open_session(path).inputs
    except CustomOperatorError:  # it may be one that is read here
        inputs = _inputs_as_written(path)
    wanted, fixed = with_axes([Wanted(i.name, i.shape, i.dtype) for i in inputs], [i.sizes for i in inputs])
    if path.suffix == ".tflite" and all(w.axis == 0 for w in wanted):
        # A .tflite shows the size of a batch that it may nevertheless take otherwise; a fixed one of an .onnx is a constant.
        fixed = None
    samples = _samples(wanted, data, request, _stated(path))
    return samples, fixed or min(batch, len(samples))


def _inputs_as_written(path: Path) -> tuple[TensorInfo, ...]:
    """Return the inputs of a ``.tflite`` that its runtime does not load."""
    from qat.sources.tflite.flatbuffer import read_subgraph

    graph = read_subgraph(path)
    tensors = [graph.tensors[number] for number in graph.inputs]
    return tuple(TensorInfo(name, t.shape, t.dtype.lower()) for name, t in zip(graph.input_names, tensors, strict=True))


def _stated(path: Path) -> Normalization | None:
    """Return the normalization of pixels that a file's metadata name."""
    found = exporter_of(format_of(path)).read_metadata(path.read_bytes())
    return None if found is None else found.normalization
