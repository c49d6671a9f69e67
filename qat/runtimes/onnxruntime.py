"""ONNX Runtime on the CPU, all graph optimizations on."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort

from qat.errors import DataError, QatError, reason_of
from qat.system.sample_axes import axis_of

from .tensors import TensorInfo, axes_of, check_shapes

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
Level = Literal["none", "extended", "all"]
#: ONNX Runtime's names of types, where NumPy has another.
_TYPES = {"float": "float32", "double": "float64"}


class OnnxSession:
    """An ``.onnx`` file, or its bytes: a :class:`qat.runtimes.Session`.

    Args:
        model: a path, or the bytes of a file.
        threads: that the runtime computes with.
        optimize: whether ONNX Runtime rewrites the graph.

    Raises:
        QatError: the file is missing or is not an ONNX model.
    """

    def __init__(self, model: str | Path | bytes, *, threads: int = 1, optimize: bool = True) -> None:
        self._model = model if isinstance(model, bytes) else str(model)
        self._threads = threads
        self._session = self._open(self._options("all" if optimize else "none"))
        self.inputs = tuple(self._info(i) for i in self._session.get_inputs())
        self.outputs = tuple(self._info(o) for o in self._session.get_outputs())
        self._axes = axes_of(self.inputs)
        self.input_names, self.output_names = (tuple(end.name for end in ends) for ends in (self.inputs, self.outputs))

    def _open(self, options: ort.SessionOptions) -> Any:
        name = "the model" if isinstance(self._model, bytes) else self._model
        if isinstance(self._model, str) and not Path(self._model).is_file():
            raise QatError(f"no such artifact: {name}")
        try:
            return ort.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            reason = reason_of(error)
            apart = "its weights are in another file, which is not beside it or is not whole"
            cause = apart if "external" in reason.lower() else "truncated, or not an ONNX model"
            raise QatError(f"ONNX Runtime cannot load {name} ({cause}): {reason}") from error

    def _options(self, level: Level) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # A thread that waits for the next batch leaves its core to what comes between: the prepared model, or the metrics.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        options.graph_optimization_level = _LEVELS[level]
        return options

    @staticmethod
    def _info(value: Any) -> TensorInfo:
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        dtype = value.type.removeprefix("tensor(").removesuffix(")")
        free = {axis: name for axis, name in enumerate(value.shape) if isinstance(name, str)}
        return TensorInfo(value.name, shape, _TYPES.get(dtype, dtype), free=free)

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs for a batch of any size, in the artifact's order."""
        return tuple(self.run_named(*arrays).values())

    def in_file_types(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return inputs in the types of the file's inputs."""
        return tuple(np.asarray(a, i.dtype, order="C") for a, i in zip(arrays, self.inputs, strict=True))

    def invoke(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs in the file's types for inputs in the file's types: the runtime's own work and nothing else."""
        feeds = dict(zip((i.name for i in self.inputs), inputs, strict=True))
        ends = zip(inputs, self.inputs, self._axes, strict=True)
        fixed = [(a.shape[axis], i.shape[axis]) for a, i, axis in ends if axis is not None]
        other = next((size for count, size in fixed if size not in (None, count)), None)
        return tuple(self._run(feeds) if other is None else self._run_in_parts(feeds, other))

    def run_named(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name.

        Raises:
            DataError: the arrays do not fit the inputs.
            QatError: the runtime refuses to run; the message holds its reason.
        """
        check_shapes(arrays, self.inputs, self._axes)
        return dict(zip((o.name for o in self.outputs), self.invoke(*self.in_file_types(*arrays)), strict=True))

    def _run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            outputs: list[np.ndarray] = self._session.run(None, feeds)
        except Exception as error:  # as in _open
            raise QatError(f"ONNX Runtime fails to run the artifact: {reason_of(error)}") from error
        return outputs

    def _run_in_parts(self, feeds: dict[str, np.ndarray], size: int) -> list[np.ndarray]:
        """Run a model of a fixed batch size on any batch. Copies of the last sample fill the last part."""
        along = dict(zip(feeds, self._axes, strict=True))
        counts = [a.shape[axis] for a, axis in zip(feeds.values(), self._axes, strict=True) if axis is not None]
        count = counts[0]
        if count == 0 or any(other != count for other in counts):
            raise DataError(f"the artifact takes batches of {size}; its inputs hold {', '.join(map(str, counts))} samples")
        parts = []
        for start in range(0, count, size):
            samples = np.minimum(np.arange(start, start + size), count - 1)
            parts.append(
                self._run({name: a if (axis := along[name]) is None else a.take(samples, axis) for name, a in feeds.items()})
            )
        joined = []
        for pieces in zip(*parts, strict=True):
            axis = axis_of(pieces[0], size) or 0  # a sequence of outputs, such as one of characters, can have the batch second
            joined.append(np.concatenate(pieces, axis).take(np.arange(count), axis))
        return joined

    def optimized_graph(self, level: Level = "all") -> onnx.ModelProto:
        """Return the graph that ONNX Runtime really runs."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options(level)
            options.optimized_model_filepath = f"{folder}/optimized.onnx"
            self._open(options)
            return onnx.load(options.optimized_model_filepath)

    def ops(self) -> Counter[str]:
        """Count the operators of the optimized graph, which are those that really run."""
        return Counter(node.op_type for node in self.optimized_graph().graph.node)

    def runs(self) -> dict[str, Counter[str]]:
        """Count the operators by the library that runs them, which is ONNX Runtime alone."""
        return {"ONNX Runtime": self.ops()}
