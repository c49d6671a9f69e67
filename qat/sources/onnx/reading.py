"""Reading an ``.onnx``: its nodes, its constants, its inputs and outputs. Nothing that the file says is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, inliner, numpy_helper

from qat.errors import DataError, reason_of
from qat.program.file_origin import FileOrigin, FileTensor
from qat.system.given_files import check_file

#: The opsets whose operators the table knows, first and last.
OPSETS = (7, 24)
#: More operators than any network has: a file of more, or whose functions call each other more often, is refused.
MOST_NODES = 200_000


@dataclass(frozen=True)
class FileNode:
    """An operator as the file has it.

    Attributes:
        type: the operator's name in the specification.
        domain: empty for ONNX's own.
        name: of the node; that of its first output where it has none.
        inputs: the names of the tensors that it reads, empty where one is left out.
        outputs: the names of the tensors that it writes.
        attributes: numbers, texts, arrays and graphs by name.
    """

    type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class FileGraph:
    """A graph of the file, or a branch within it.

    Attributes:
        nodes: in the file's order.
        constants: the initializers by name.
        inputs: without those that are initializers.
        outputs: in the file's order.
    """

    nodes: tuple[FileNode, ...]
    constants: Mapping[str, np.ndarray]
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]


def read(path: Path, known_types: Iterable[tuple[str, str]]) -> tuple[FileGraph, FileOrigin]:
    """Read a file. Its functions, and operators that are none of ``known_types`` but have a definition by others, are opened.

    Args:
        path: of the ``.onnx``; weights beside it (external data) are read too.
        known_types: domain and name of the operators that the table knows.

    Raises:
        DataError: the file is missing, damaged, or of an opset that is not known.
    """
    model = _load(path)
    opset = _opset(path, model)
    _check_calls(path, model)
    model = _opened(path, model, set(known_types))
    try:
        graph = graph_of(model.graph)
    except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:  # what onnx raises for tensors that are none
        raise DataError(f"{path} is damaged: {reason_of(error)}. Export it again") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return graph, FileOrigin(".onnx", graph.inputs, graph.outputs, opset, metadata=metadata)


def graph_of(graph: onnx.GraphProto) -> FileGraph:
    """Return a graph of the file: the whole, or a branch of an If."""
    constants = {t.name: to_array(t) for t in graph.initializer}
    constants |= {t.values.name: _dense(t) for t in graph.sparse_initializer}
    inputs = tuple(_tensor(v) for v in graph.input if v.name not in constants)
    return FileGraph(tuple(map(_node, graph.node)), constants, inputs, tuple(map(_tensor, graph.output)))


def to_array(tensor: onnx.TensorProto) -> np.ndarray:
    """Return a tensor of the file; one of half precision as float32.

    Raises:
        ValueError: its size is not that of its bytes.
    """
    array = numpy_helper.to_array(tensor)
    return array.astype(np.float32) if _is_float(array.dtype) else array


def _is_float(dtype: np.dtype) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    values, indices = to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    dense[np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)] = values
    return dense


def _load(path: Path) -> onnx.ModelProto:
    check_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise DataError(f"{path} is no ONNX model, or is truncated: {reason_of(error)}") from error
    if not model.graph.node:
        raise DataError(f"{path} has no operators: it is no ONNX model, or is truncated")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise DataError(f"{path}: its weights are in another file, which cannot be read: {reason_of(error)}") from error
    return model


def _opset(path: Path, model: onnx.ModelProto) -> int:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise DataError(
            f"{path} is of opset {opset}, and {OPSETS[0]} to {OPSETS[1]} can be read: export it again, or convert it by "
            "onnx.version_converter.convert_version"
        )
    return opset


def _check_calls(path: Path, model: onnx.ModelProto) -> None:
    """Count the operators that the file has once its functions are opened: functions that call functions multiply them.

    Raises:
        DataError: there are too many, or a function calls itself.
    """
    functions = {(f.domain, f.name): f for f in model.functions}
    counts: dict[tuple[str, str], int | None] = {}

    def count(nodes: Sequence[onnx.NodeProto], depth: int) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key not in functions:
                total += 1
            elif key not in counts:
                counts[key] = None
                counts[key] = count(functions[key].node, depth + 1)
            if (inside := counts.get(key, 0)) is None or depth > 100:
                raise DataError(f"{path}: function '{node.op_type}' calls itself: export the model again")
            total += inside
            for attribute in node.attribute:
                for branch in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                    total += count(branch.node, depth + 1)
        return total

    total = count(model.graph.node, 0)
    if total > MOST_NODES:
        raise DataError(f"{path} has {total:,} operators, and networks have at most {MOST_NODES:,}: it is damaged")


def _opened(path: Path, model: onnx.ModelProto, known: set[tuple[str, str]]) -> onnx.ModelProto:
    """Return the model without functions of its own, and without operators that are defined by others that are known."""
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        used = {(node.domain, node.op_type) for node in model.graph.node}
        unknown = [key for key in used - known if _has_definition(*key)]
        if unknown:
            model = inliner.inline_selected_functions(model, unknown, inline_schema_functions=True)
    except Exception as error:  # onnx's C++ parts share no base class but this
        raise DataError(f"{path}: its functions cannot be opened: {reason_of(error)}. Export it again") from error
    return model


def _has_definition(domain: str, name: str) -> bool:
    if domain not in ("", "ai.onnx") or not onnx.defs.has(name):
        return False
    schema = onnx.defs.get_schema(name)
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]


def _node(node: onnx.NodeProto) -> FileNode:
    named = node.name or next((o for o in node.output if o), node.op_type)
    attributes = {a.name: _attribute(a) for a in node.attribute}
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not all(isinstance(text, str) for text in (node.op_type, domain, named, *node.input, *node.output, *attributes)):
        raise ValueError("a name that is no text")  # protobuf returns the bytes
    return FileNode(node.op_type, domain, named, tuple(node.input), tuple(node.output), attributes)


def _attribute(attribute: AttributeProto) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return to_array(attribute.t)
    if attribute.type == AttributeProto.SPARSE_TENSOR:
        return _dense(attribute.sparse_tensor)
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, (list, tuple)):
        return tuple(map(_text, value))
    return _text(value)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _tensor(value: onnx.ValueInfoProto) -> FileTensor:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param for d in kind.shape.dim)
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    except KeyError:
        dtype = "none"
    if not all(isinstance(text, (str, int)) for text in (value.name, *shape)):
        raise ValueError("a name that is no text")
    return FileTensor(value.name, shape, dtype)
