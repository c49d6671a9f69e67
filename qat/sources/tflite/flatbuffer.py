"""What a ``.tflite`` holds: the tensors, constants and operators of one of its subgraphs.

The schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import DataError, nearest, reason_of

from .sparsity import densify

#: An object of the schema's Python classes, which have no types.
Table = Any

_TYPES = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
_BUILTINS = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
#: NumPy's types of the constants that are read; TFLite's other types have none.
_DTYPES: dict[str, type[np.generic]] = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
}  # fmt: skip
_QUANTIZED = ("INT2", "INT4", "UINT4", "INT8", "UINT8", "INT16")


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a subgraph.

    Attributes:
        name: unique among the subgraph's tensors.
        shape: its sizes; None of an axis that is free.
        dtype: the schema's name of its type, such as ``FLOAT32``.
        quantized: whether it holds the integers of real values.
        data: its values where it is constant.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    quantized: bool = False
    data: np.ndarray | None = None


@dataclass(frozen=True)
class Operator:
    """An operator of a subgraph.

    Attributes:
        code: the name of a builtin, such as ``CONV_2D``, or of a custom operator.
        scope: the name of its first output, by which recipes and messages call it.
        inputs: the indices of tensors; -1 stands for an optional input that is left out.
        outputs: the indices of tensors.
        options: the builtin's own table of options; None where it has none.
        custom: the bytes of a custom operator's options.
    """

    code: str
    scope: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table = None
    custom: bytes = b""

    def __str__(self) -> str:
        return f"{self.code} '{self.scope}'"

    @property
    def is_custom(self) -> bool:
        """Whether TFLite has no such operator."""
        return self.code not in _BUILTINS.values()


@dataclass(frozen=True)
class Subgraph:
    """The part of a file that is run, and the names by which its caller knows the inputs and outputs."""

    tensors: tuple[FileTensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    signature: str = ""


def read_model(path: Path) -> tuple[Table, bytes]:
    """Return the objects of a file's flatbuffer, and the bytes of the file.

    Raises:
        DataError: the file cannot be read, or is no ``.tflite``.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}") from error
    if raw[4:8] != b"TFL3":
        raise DataError(f"{path} is not a .tflite file: it does not carry the identifier TFL3")
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0)), raw
    except Exception as error:  # the generated classes raise what an offset beyond the file makes of them
        raise DataError(f"{path} is truncated or corrupt: {reason_of(error)}") from error


def read_subgraph(path: Path, signature: str = "") -> Subgraph:
    """Return the subgraph of a signature; without one, the first subgraph of a file.

    Raises:
        DataError: the file is damaged, or has no such signature.
    """
    model, raw = read_model(path)
    try:
        return _subgraph(model, raw, _signature(model, signature, path))
    except DataError:
        raise
    except Exception as error:  # indices and sizes of a damaged file fail wherever they are used
        raise DataError(f"{path} is truncated or corrupt: {reason_of(error)}") from error


def _signature(model: Table, key: str, path: Path) -> Table | None:
    """Return the signature of a key; the first one without a key; None where the file has none."""
    found = {_text(s.signatureKey): s for s in model.signatureDefs or ()}
    if key and key not in found:
        have = ", ".join(found) or "none"
        raise DataError(f"{path} has no signature '{key}'{nearest(key, found)}: it has {have}")
    return found[key] if key else next(iter(found.values()), None)


def _subgraph(model: Table, raw: bytes, signature: Table | None) -> Subgraph:
    graph = model.subgraphs[signature.subgraphIndex if signature is not None else 0]
    names = _unique_names(graph.tensors)
    tensors = tuple(_tensor(t, name, model.buffers[t.buffer], raw) for t, name in zip(graph.tensors, names, strict=True))
    inputs, outputs = (tuple(int(i) for i in indices) for indices in (graph.inputs, graph.outputs))
    operators = tuple(_operator(op, model.operatorCodes, names) for op in graph.operators or ())
    used = [*inputs, *outputs, *(i for op in operators for i in (*op.inputs, *op.outputs))]
    if not outputs or not -1 <= min(used) <= max(used) < len(tensors):
        raise IndexError("it names tensors that it does not have")
    called: tuple[Mapping[int, str], ...] = ({}, {})
    if signature is not None:
        called = tuple({int(m.tensorIndex): _text(m.name) for m in maps or ()} for maps in (signature.inputs, signature.outputs))
    return Subgraph(
        tensors,
        operators,
        inputs,
        outputs,
        tuple(called[0].get(i, _text(graph.tensors[i].name)) for i in inputs),
        tuple(called[1].get(i, _text(graph.tensors[i].name)) for i in outputs),
        _text(signature.signatureKey) if signature is not None else "",
    )


def _tensor(tensor: Table, name: str, buffer: Table, raw: bytes) -> FileTensor:
    dtype = _TYPES[tensor.type]
    sizes = [int(n) for n in (tensor.shape if tensor.shape is not None else ())]
    signature = tensor.shapeSignature if tensor.shapeSignature is not None else sizes
    shape = tuple(None if n < 0 else int(n) for n in signature)
    scale = tensor.quantization.scale if tensor.quantization is not None else None
    quantized = dtype in _QUANTIZED and scale is not None and len(scale) > 0
    data = _bytes_of(buffer, raw)
    if data is None or dtype not in _DTYPES:
        return FileTensor(name, shape, dtype, quantized)
    values = np.frombuffer(data, _DTYPES[dtype])
    dense = values.reshape(sizes) if tensor.sparsity is None else densify(values, sizes, tensor.sparsity)
    return FileTensor(name, tuple(sizes), dtype, quantized, dense)


def _bytes_of(buffer: Table, raw: bytes) -> bytes | None:
    """Return the bytes of a constant; None of a tensor that is computed. In a file beyond 2 GB they lie behind the flatbuffer."""
    if buffer.offset > 1:
        return raw[buffer.offset : buffer.offset + buffer.size]
    return bytes(buffer.data) if buffer.data is not None and len(buffer.data) else None


def _operator(op: Table, codes: list[Table], names: list[str]) -> Operator:
    code = codes[op.opcodeIndex]
    builtin = _BUILTINS[max(code.builtinCode, code.deprecatedBuiltinCode)]
    custom = bytes(op.customOptions) if op.customOptions is not None else b""
    inputs, outputs = (tuple(int(i) for i in (x if x is not None else ())) for x in (op.inputs, op.outputs))
    scope = names[outputs[0]] if outputs else ""
    return Operator(_text(code.customCode) if builtin == "CUSTOM" else builtin, scope, inputs, outputs, op.builtinOptions, custom)


def _unique_names(tensors: list[Table]) -> list[str]:
    """Return a name for each tensor. Of the names that the converter joins by semicolons the first one is the last layer's."""
    taken: dict[str, int] = {}
    names = []
    for number, tensor in enumerate(tensors):
        name = _text(tensor.name).split(";")[0].removesuffix(":0") or f"tensor_{number}"
        taken[name] = taken.get(name, 0) + 1
        names.append(name if taken[name] == 1 else f"{name}__{number}")
    return names


def _text(raw: bytes | str | None) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw or ""
