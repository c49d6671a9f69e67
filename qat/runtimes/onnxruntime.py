"""ONNX Runtime on the CPU, all graph optimizations on."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from qat.errors import QatError
from qat.runtimes import TensorInfo, check_shapes


class OnnxSession:
    """An ``.onnx`` file, or its bytes."""

    def __init__(self, model: str | Path | bytes, *, threads: int = 1) -> None:
        self._model = model if isinstance(model, bytes) else str(model)
        self._threads = threads
        try:
            self._session = ort.InferenceSession(self._model, self._options(), providers=["CPUExecutionProvider"])
        except Exception as error:
            name = "the model" if isinstance(model, bytes) else str(model)
            reason = str(error).strip().splitlines()[0][:200]
            raise QatError(f"ONNX Runtime cannot load {name} (truncated, or not an ONNX model): {reason}") from error
        self.inputs = tuple(self._info(i) for i in self._session.get_inputs())
        self.outputs = tuple(self._info(o) for o in self._session.get_outputs())

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        return options

    @staticmethod
    def _info(value: ort.NodeArg) -> TensorInfo:
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        return TensorInfo(value.name, shape, value.type.removeprefix("tensor(").removesuffix(")"))

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs for float32 inputs, in the artifact's order."""
        return tuple(self.run_named(*arrays).values())

    def run_named(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        check_shapes(arrays, self.inputs)
        feeds = {i.name: np.ascontiguousarray(a, np.float32) for i, a in zip(self.inputs, arrays, strict=True)}
        return dict(zip((o.name for o in self.outputs), self._session.run(None, feeds), strict=True))

    def ops(self) -> Counter[str]:
        """Count the operators of the optimized graph: what really runs."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.optimized_model_filepath = f"{folder}/optimized.onnx"
            ort.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
            return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
