"""A file's graph becomes a module: constants first, then operator by operator, each by its row of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from qat.errors import CaptureError, DataError, QatError, reason_of
from qat.program.file_origin import FileOrigin, FileTensor
from qat.sources.module_writer import ModuleWriter, Value
from qat.system.sample_axes import Axes, sample_axes

from .biases import with_biases
from .folding import Eager, as_array
from .known import Known, Operand, Size, size_of
from .operator import DAMAGED, Batch, Length, Operator
from .reading import FileGraph, FileNode, graph_of
from .size_arithmetic import known_result
from .table import OPERATORS


def to_module(graph: FileGraph, origin: FileOrigin, sizes: Sequence[Sequence[int]], any_batch: bool) -> fx.GraphModule:
    """Return the module of a graph.

    Args:
        graph: as the file has it.
        origin: that the module carries on.
        sizes: of the inputs, an example that the file's runtime takes.
        any_batch: whether an axis of samples of one size, the same for all inputs, becomes a free one.

    Raises:
        CaptureError: an operator has no row, or cannot be written; the message names it.
        DataError: the file is damaged.
    """
    missing = [node for node in graph.nodes if (node.domain, node.type) not in OPERATORS and node.type not in _CONTROL]
    if missing:
        raise CaptureError(_without_row(missing))
    importer = _Importer(origin.opset or 0, *batch_of(graph), any_batch)
    try:
        return importer.module(graph, origin, sizes)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, QatError):
            raise
        raise DataError(f"the file contradicts itself ({type(error).__name__}: {reason_of(error)}): export it again") from error


def batch_of(graph: FileGraph) -> tuple[int | None, Axes]:
    """Return the number of samples that a file is fixed to, None where it is free, and their axes."""
    size, axes = sample_axes([t.shape for t in graph.inputs])
    return size if isinstance(size, int) else None, axes


#: Operators of the walk itself, not of the table.
_CONTROL = ("If", "Constant")


def _without_row(missing: Sequence[FileNode]) -> str:
    first = missing[0]
    counts = Counter(f"{n.domain}.{n.type}".lstrip(".") for n in missing)
    others = "".join(
        f", {kind} ({count})" for kind, count in counts.items() if kind != f"{first.domain}.{first.type}".lstrip(".")
    )
    rest = f"; so have{others[1:]}" if others else ""
    return (
        f"operator {_label(first)} '{first.name}' has no form in PyTorch that can be captured{rest}: "
        "cut the model before it with onnx.utils.extract_model, or export it without"
    )


def _label(node: FileNode) -> str:
    return f"{node.domain}.{node.type}" if node.domain else node.type


class _Importer:
    """Writes one graph. ``values`` holds every tensor of the file that is known or written so far."""

    def __init__(self, opset: int, own_batch: int | None, axes: Axes, any_batch: bool) -> None:
        self.opset, self.own_batch, self.axes, self.any_batch = opset, own_batch, axes, any_batch
        self.batch: Batch | None = None
        self.writer = ModuleWriter()
        self.values: dict[str, Operand | None] = {}
        self.written: dict[str, list[tuple[np.ndarray, Value]]] = {}
        self.eager = Eager()

    def module(self, graph: FileGraph, origin: FileOrigin, sizes: Sequence[Sequence[int]]) -> fx.GraphModule:
        for tensor, example, samples in zip(graph.inputs, sizes, self.axes, strict=True):
            free = [not isinstance(n, int) for n in tensor.shape]
            if samples is not None and self.own_batch is not None:
                free[samples] = self.any_batch
            shape = [None if is_free else size for size, is_free in zip(example, free, strict=True)]
            # A size of one would be taken for a fixed one.
            tried = [max(size, 2) if is_free else size for size, is_free in zip(example, free, strict=True)]
            value = self.writer.input(tensor.name, shape, torch_type(tensor), tried)
            self.values[tensor.name] = value
            if samples is not None and self.any_batch and self.own_batch is not None and self.batch is None:
                self.batch = Batch(self.own_batch, value.shape[samples].node.expr)  # type: ignore[union-attr]
        self.take_constants(graph)
        nodes = self.fold(graph.nodes)
        for node in with_biases(nodes, self.values, [t.name for t in graph.outputs]):
            self.write(node)
        outputs = [self.tensor(self.read(None, t.name)) for t in graph.outputs]
        return self.writer.finish(outputs, origin)

    # --- the walk ---

    def take_constants(self, graph: FileGraph) -> None:
        """Take the initializers; those of real numbers are trained."""
        for name, array in graph.constants.items():
            self.values[name] = Known(name, as_array(array), _is_weight(array))

    def fold(self, nodes: Sequence[FileNode]) -> list[FileNode]:
        """Compute what is known before any input, and return the other nodes."""
        rest = []
        for node in nodes:
            if node.type == "Constant":
                array = as_array(_constant(node))
                self.values[node.outputs[0]] = Known(node.outputs[0], array, _is_weight(array))
            elif node.type != "If" and all(self._is_number(name) for name in node.inputs):
                self.keep(node, self.run(node, self.eager))
            else:
                rest.append(node)
        return rest

    def _is_number(self, name: str) -> bool:
        value = self.values.get(name)
        return not name or (isinstance(value, Known) and not value.symbolic)

    def write(self, node: FileNode) -> None:
        """Write a node into the module, or compute with the sizes that it reads."""
        if node.type == "If":
            self.branch(node)
            return
        with self.writer.operator(node.name):
            operator = Operator(node, self.opset, [self.read(node, name) for name in node.inputs], self, self.batch)
            found = self.guarded(operator, known_result)
            if found is not None:
                self.keep(node, [Known(name, array) for name, array in zip(node.outputs, found, strict=False)])
            else:
                self.keep(node, self.run(node, self))

    def branch(self, node: FileNode) -> None:
        """Write the branch of an If that is taken."""
        condition = self.read(node, node.inputs[0])
        if not isinstance(condition, Known):
            raise CaptureError(
                f"operator If '{node.name}' chooses by the values of the model's inputs, and a module on the integer grid has "
                "one course: export the model with that choice made"
            )
        graph = graph_of(node.attributes["then_branch" if condition.array.reshape(-1)[0] else "else_branch"])
        missing = [n for n in graph.nodes if (n.domain, n.type) not in OPERATORS and n.type not in _CONTROL]
        if missing:
            raise CaptureError(_without_row(missing))
        self.take_constants(graph)
        for inner in self.fold(graph.nodes):
            self.write(inner)
        for outer, inner_output in zip(node.outputs, graph.outputs, strict=True):
            self.values[outer] = self.read(node, inner_output.name)

    def read(self, node: FileNode | None, name: str) -> Operand | None:
        """Return a tensor that a node, or the whole graph, reads."""
        if not name:
            return None
        reader = f"operator {node.type} '{node.name}' reads" if node else "the file returns"
        if name not in self.values:
            raise DataError(
                f"{reader} '{name}', which nothing before it computes: the file is damaged, or its operators are unsorted"
            )
        if self.values[name] is None:
            raise CaptureError(
                f"{reader} '{name}', an output that PyTorch's form of its operator does not have: export without it"
            )
        return self.values[name]

    def run(self, node: FileNode, calls: Any) -> list[Operand | None]:
        """Return the outputs of a node, by its row."""
        operator = Operator(node, self.opset, [self.read(node, name) for name in node.inputs], calls, self.batch)
        result = self.guarded(operator, OPERATORS[node.domain, node.type])
        return list(result) if isinstance(result, (list, tuple)) else [result]

    @staticmethod
    def guarded(operator: Operator, function: Callable[[Operator], Any]) -> Any:
        """Call a function of an operator; what fails names the operator."""
        try:
            return function(operator)
        except QatError:
            raise
        except Exception as error:  # PyTorch and NumPy raise what they like
            operator.refuse(f"cannot be read: {reason_of(error).rstrip('.')}")

    def keep(self, node: FileNode, results: Sequence[Operand | None]) -> None:
        """Keep the outputs of a node. A weight that is only moved keeps its name and stays one."""
        weights = [v for name in node.inputs if isinstance(v := self.values.get(name), Known) and v.trained]
        for name, result in zip(node.outputs, [*results, *[None] * len(node.outputs)], strict=False):
            if isinstance(result, Known) and not result.name:
                moved = len(weights) == 1 and _is_weight(result.array)
                result = Known(weights[0].name if moved else name, result.array, bool(weights) and _is_weight(result.array))
            if name:
                self.values[name] = result

    # --- what rows call ---

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Operand:
        if not any(isinstance(a, (Value, Size)) for a in _leaves((args, list(kwargs.values())))):
            return self.eager.call(function, *args, **kwargs)
        return self.writer.call(function, *self.written_form(args), **{k: self.written_form(a) for k, a in kwargs.items()})

    def call_like(self, operand: Operand, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Operand:
        if not isinstance(operand, Value):
            return self.call(function, *args, **kwargs)
        return self.writer.call_like(
            operand, function, *self.written_form(args), **{k: self.written_form(a) for k, a in kwargs.items()}
        )

    def calls(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Sequence[Operand]:
        return self.writer.calls(function, *self.written_form(args), **{k: self.written_form(a) for k, a in kwargs.items()})

    def shape(self, operand: Operand) -> list[Length]:
        if isinstance(operand, Known):
            return list(operand.array.shape)
        return [size_of(self.writer, operand, axis) for axis in range(len(operand.shape))]

    def dtype(self, operand: Operand) -> torch.dtype:
        return self.tensor(operand).dtype if isinstance(operand, Value) or operand.symbolic else self.eager.dtype(operand)

    def written_form(self, argument: Any) -> Any:
        """Return an argument of a call as the writer takes it."""
        if isinstance(argument, Size):
            return argument.value
        if isinstance(argument, Known):
            return self.tensor(argument)
        if isinstance(argument, (list, tuple)):
            return type(argument)(map(self.written_form, argument))
        return argument

    def tensor(self, operand: Operand | None) -> Value:
        """Return an operand as a tensor of the module: a known one as a parameter or a buffer of its name."""
        assert operand is not None
        if isinstance(operand, Value):
            return operand
        if operand.symbolic:
            scalars = [
                self.writer.call(torch.scalar_tensor, self.written_form(n), dtype=torch.int64) for n in operand.array.reshape(-1)
            ]
            return self.writer.call(torch.reshape, self.writer.call(torch.stack, scalars), list(operand.array.shape))
        before = self.written.setdefault(operand.name, [])
        for array, value in before:
            if array.shape == operand.array.shape and array.dtype == operand.array.dtype and np.array_equal(array, operand.array):
                return value
        name = operand.name + "_" * len(before)
        value = (self.writer.parameter if operand.trained else self.writer.buffer)(name, operand.array)
        before.append((operand.array, value))
        return value


def _constant(node: FileNode) -> np.ndarray:
    """Source: https://onnx.ai/onnx/operators/onnx__Constant.html."""
    value = next(iter(node.attributes.values()), None)
    if value is None or isinstance(value, str):
        raise DataError(f"operator Constant '{node.name}' holds no numbers", DAMAGED)
    if isinstance(value, np.ndarray):
        return value
    flat = np.array(value)
    return flat.astype(np.float32) if flat.dtype.kind == "f" else flat


def _is_weight(array: np.ndarray) -> bool:
    return array.dtype == np.float32 and array.ndim > 0 and bool(np.isfinite(array).all())


def torch_type(tensor: FileTensor) -> torch.dtype:
    """Return the type of a module's input; real numbers are float32.

    Raises:
        CaptureError: PyTorch has no such type.
    """
    if tensor.dtype.startswith(("float", "bfloat")):
        return torch.float32
    dtype = getattr(torch, tensor.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise CaptureError(
            f"input '{tensor.name}' is of type {tensor.dtype}, which no tensor of PyTorch has: cut the model behind it"
        )
    return dtype


def _leaves(argument: Any) -> Iterator[Any]:
    if isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _leaves(item)
    else:
        yield argument
