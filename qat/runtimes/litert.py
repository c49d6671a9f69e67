"""LiteRT on the CPU: its default delegate (XNNPACK), or the reference kernels that microcontrollers run."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import dequantize, f32
from qat.arithmetic.kernels import KERNELS
from qat.errors import CustomOperatorError, QatError, reason_of
from qat.system.sample_axes import axis_of, count_of, cut

from .tensors import LIMITS, TensorInfo, axes_of, check_shapes

_UNRESOLVED = re.compile(r"unresolved custom op: ([^\s.]+)")


class LiteRTSession:
    """A ``.tflite`` file, or its bytes: a :class:`qat.runtimes.Session`.

    Integer inputs are quantized before the file runs, and integer outputs dequantized after it.

    Args:
        model: a path, or the bytes of a file.
        threads: that the runtime computes with.
        kernels: ``reference`` for the kernels that microcontrollers run; all others run the default delegate.

    Raises:
        CustomOperatorError: it has an operator that LiteRT does not have.
        QatError: the model is not a ``.tflite`` file, or is corrupt.
    """

    def __init__(self, model: str | Path | bytes, *, threads: int = 1, kernels: str = "xnnpack") -> None:
        name = "the model" if isinstance(model, bytes) else str(model)
        raw = model if isinstance(model, bytes) else Path(model).read_bytes()
        if len(raw) < 8 or raw[4:8] != b"TFL3":
            raise QatError(f"{name} is not a .tflite file (it does not carry the identifier TFL3): export it again")
        resolver = OpResolverType.BUILTIN_REF if kernels == "reference" else OpResolverType.AUTO
        try:
            self._interpreter = Interpreter(model_content=raw, num_threads=threads, experimental_op_resolver_type=resolver)
            details = self._interpreter.get_input_details()
            self._shapes = [tuple(map(int, detail["shape"])) for detail in details]
            self._allocate(bool(details) and any(-1 in detail["shape_signature"][1:] for detail in details))
        except (ValueError, RuntimeError) as error:
            if custom := _UNRESOLVED.search(str(error)):
                raise CustomOperatorError(
                    f"LiteRT cannot run {name}: it has no kernel for the custom operator {custom[1]}; run the file in the "
                    "application that it was made for"
                ) from error
            raise QatError(f"LiteRT cannot load {name} (truncated or corrupt): {reason_of(error)}") from error
        self._kernels = kernels
        self.inputs = tuple(self._info(d) for d in self._interpreter.get_input_details())
        self.outputs = tuple(self._info(d) for d in self._interpreter.get_output_details())
        self.input_names = self._signature_names("inputs", self._interpreter.get_input_details(), self.inputs)
        self.output_names = self._signature_names("outputs", self._interpreter.get_output_details(), self.outputs)
        self._axes = axes_of(self.inputs)
        tensors = zip(self._interpreter.get_input_details(), self._axes, strict=True)
        self._batch = next((int(detail["shape"][axis]) for detail, axis in tensors if axis is not None), 1)

    def _allocate(self, free: bool) -> None:
        """Allocate the tensors. A free size is 1 until inputs set it, which may be too little: then they allocate."""
        try:
            self._interpreter.allocate_tensors()
        except RuntimeError:
            if not free:
                raise
            self._shapes = []

    def _signature_names(self, ends: str, details: list[dict[str, Any]], infos: tuple[TensorInfo, ...]) -> tuple[str, ...]:
        """Return the names of inputs or outputs in the file's first signature; those of their tensors where it has none."""
        signature: dict[str, Any] = next(iter(self._interpreter._get_full_signature_list().values()), {})
        names = {index: name for name, index in signature.get(ends, {}).items()}
        return tuple(names.get(detail["index"], info.name) for detail, info in zip(details, infos, strict=True))

    @staticmethod
    def _info(detail: dict[str, Any]) -> TensorInfo:
        signature = detail.get("shape_signature", detail["shape"])
        shape = tuple(None if d < 0 else int(d) for d in signature)
        scales = detail["quantization_parameters"]["scales"]
        zero_point = int(detail["quantization_parameters"]["zero_points"][0]) if len(scales) else 0
        dtype = np.dtype(detail["dtype"]).name
        name = detail["name"].removeprefix("serving_default_").removesuffix(":0")
        return TensorInfo(name, shape, dtype, float(scales[0]) if len(scales) else None, zero_point)

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return float32 outputs for float32 inputs, in the artifact's order."""
        return tuple(self._real(value, info) for value, info in zip(self._run(arrays), self.outputs, strict=True))

    def in_file_types(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return float32 inputs in the types of the file's inputs, quantized where those are integers."""
        return tuple(self._integers(array, info) for array, info in zip(arrays, self.inputs, strict=True))

    def run_named(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name, as integers where the file's are integers, for float32 inputs."""
        return {info.name: value for value, info in zip(self._run(arrays), self.outputs, strict=True)}

    def invoke(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs in the file's types for inputs in the file's types: the runtime's own work and nothing else."""
        try:
            return self._invoke(inputs)
        except (ValueError, RuntimeError) as error:
            raise QatError(f"LiteRT fails to run the artifact: {reason_of(error)}") from error

    def _invoke(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        details = self._interpreter.get_input_details()
        shapes = [array.shape for array in inputs]
        if shapes != self._shapes:
            for shape, detail in zip(shapes, details, strict=True):
                self._interpreter.resize_tensor_input(detail["index"], shape)
            self._interpreter.allocate_tensors()
            self._shapes, self._batch = shapes, count_of(inputs, self._axes)
        for array, detail in zip(inputs, details, strict=True):
            self._interpreter.set_tensor(detail["index"], array)
        self._interpreter.invoke()
        return tuple(self._interpreter.get_tensor(d["index"]) for d in self._interpreter.get_output_details())

    def _run(self, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        check_shapes(arrays, self.inputs, self._axes)
        count, size = count_of(arrays, self._axes), self._batch
        if count == size or all(
            axis is not None and i.shape[axis] is None for i, axis in zip(self.inputs, self._axes, strict=True)
        ):
            return self.invoke(*self.in_file_types(*arrays))
        # A file with a fixed batch size takes its inputs in parts of that size.
        inputs = (cut(arrays, self._axes, first, first + size) for first in range(0, count, size))
        parts = [self.invoke(*self.in_file_types(*part)) for part in inputs]
        return tuple(np.concatenate(pieces, axis_of(pieces[0], size) or 0) for pieces in zip(*parts, strict=True))

    def _integers(self, array: np.ndarray, info: TensorInfo) -> np.ndarray:
        if info.scale is None or info.dtype not in LIMITS:
            return np.asarray(array, info.dtype, order="C")
        encoding = self._encoding(info)
        return (KERNELS[self._kernels].quantize(array, encoding) + encoding.zero_point).astype(info.dtype)

    def _real(self, value: np.ndarray, info: TensorInfo) -> np.ndarray:
        if info.scale is None or info.dtype not in LIMITS:
            return np.asarray(value, f32)
        encoding = self._encoding(info)
        return dequantize(value.astype(np.int32) - encoding.zero_point, encoding)

    @staticmethod
    def _encoding(info: TensorInfo) -> Encoding:
        return Encoding(np.asarray(info.scale, f32), info.zero_point, *LIMITS[info.dtype])

    def ops(self) -> Counter[str]:
        """Count the operators of the file by name, and the ``DELEGATE`` operators that run some of them."""
        return Counter(op["op_name"] for op in self._interpreter._get_ops_details())

    def runs(self) -> dict[str, Counter[str]]:
        """Count the operators by the library that runs them: the delegate (XNNPACK), or TFLite's own kernels.

        The runtime lists the operators that a ``DELEGATE`` runs beside it: those between its inputs and its outputs.
        """
        operators = self._interpreter._get_ops_details()
        writers = {int(t): op for op in operators if op["op_name"] != "DELEGATE" for t in op["outputs"]}
        delegated: dict[int, str] = {}
        for delegate in (op for op in operators if op["op_name"] == "DELEGATE"):
            inputs = {int(t) for t in delegate["inputs"]}
            waiting = [int(t) for t in delegate["outputs"]]
            while waiting:
                tensor = waiting.pop()
                op = writers.get(tensor)
                if tensor not in inputs and op is not None and op["index"] not in delegated:
                    delegated[op["index"]] = op["op_name"]
                    waiting += [int(t) for t in op["inputs"]]
        own = Counter(op["op_name"] for op in writers.values() if op["index"] not in delegated)
        return {"XNNPACK": Counter(delegated.values()), "TFLite": own}
