"""Small ``.tflite`` files, written operator by operator: for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int64": "INT64", "bool": "BOOL", "int8": "INT8"}


class TFLiteFile:
    """A file of one subgraph. Tensors are numbers; LiteRT computes the shapes of those that operators write."""

    def __init__(self) -> None:
        self.graph, self.model = schema.SubGraphT(), schema.ModelT()
        self.graph.tensors, self.graph.operators, self.graph.inputs = [], [], []
        self.model.buffers, self.model.operatorCodes, self.model.version = [schema.BufferT()], [], 3

    def tensor(self, shape: Sequence[int], dtype: str = "float32", name: str = "", free: bool = False) -> int:
        """Add a tensor that an operator writes."""
        tensor = schema.TensorT()
        tensor.name, tensor.type = name or f"tensor_{len(self.graph.tensors)}", getattr(schema.TensorType, _TYPES[dtype])
        tensor.shape = np.array(shape, np.int32)
        if free:
            tensor.shapeSignature = np.array([-1, *shape[1:]], np.int32)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def input(self, shape: Sequence[int], dtype: str = "float32", free: bool = False) -> int:
        """Add an input of the file."""
        number = self.tensor(shape, dtype, f"input_{len(self.graph.inputs)}", free)
        self.graph.inputs.append(number)
        return number

    def constant(self, array: Any, dtype: str = "", name: str = "") -> int:
        """Add a constant: of int32 where it holds integers, of float32 where it holds other numbers."""
        values = np.asarray(array)
        values = values.astype(dtype or ("float32" if values.dtype.kind == "f" else "int32"))
        number = self.tensor(values.shape, values.dtype.name, name)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.graph.tensors[number].buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        return number

    def operator(
        self, code: str, inputs: Sequence[int], outputs: int | Sequence[int] = 1, options: str = "", dtype: str = "float32",
        version: int = 1, custom: bytes = b"", name: str = "", shape: Sequence[int] = (1,), **fields: Any
    ) -> Any:  # fmt: skip
        """Add an operator and return its output, or a list of several.

        ``options`` is the name of its table, without Options; ``shape`` is that of the output where LiteRT does not compute it.
        """
        entry, op = schema.OperatorCodeT(), schema.OperatorT()
        entry.version = version
        if custom:
            entry.builtinCode, entry.customCode, op.customOptions = schema.BuiltinOperator.CUSTOM, code, list(custom)
        else:
            entry.builtinCode = getattr(schema.BuiltinOperator, code)
        entry.deprecatedBuiltinCode = min(entry.builtinCode, 127)
        count = outputs if isinstance(outputs, int) else len(outputs)
        made = [self.tensor(shape, dtype, name) for _ in range(count)]
        op.opcodeIndex, op.inputs, op.outputs = (
            len(self.model.operatorCodes),
            np.array(inputs, np.int32),
            np.array(made, np.int32),
        )
        if options:
            table = getattr(schema, f"{options}OptionsT")()
            for field, value in fields.items():
                setattr(table, field, value)
            op.builtinOptions, op.builtinOptionsType = table, getattr(schema.BuiltinOptions, f"{options}Options")
        self.model.operatorCodes.append(entry)
        self.graph.operators.append(op)
        return made[0] if count == 1 else made

    def save(self, path: Path, outputs: Sequence[int]) -> Path:
        """Write the file."""
        self.graph.inputs, self.graph.outputs = np.array(self.graph.inputs, np.int32), np.array(outputs, np.int32)
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def without_signature(raw):
    """Return a file without its signatures, as older converters wrote it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0))
    model.signatureDefs = None
    builder = flatbuffers.Builder(len(raw))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
