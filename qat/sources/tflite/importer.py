"""Walks the operators of a subgraph, and answers what their rows ask: inputs in the order that they need, constants, sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from qat.errors import CaptureError
from qat.sources.module_writer import Argument, ModuleWriter, Value
from qat.system.sample_axes import sample_axes

from .flatbuffer import FileTensor, Operator, Subgraph
from .laid import Laid, as_in_file, changed, channels_first

#: What a row returns: its outputs, as tensors of the module or as arrays that are known without running it.
Result: TypeAlias = Laid | np.ndarray | list[Laid] | list[np.ndarray]
#: Writes one operator of the file.
Row: TypeAlias = "Callable[[Importer, Operator], Result]"

_TORCH_TYPES = {
    "FLOAT32": torch.float32, "FLOAT16": torch.float16, "FLOAT64": torch.float64, "BOOL": torch.bool, "INT8": torch.int8,
    "INT16": torch.int16, "INT32": torch.int32, "INT64": torch.int64, "UINT8": torch.uint8,
}  # fmt: skip

# tensorflow/lite/kernels/activation_functor.h, by the schema's ActivationFunctionType.
_ACTIVATIONS: dict[int, tuple[Callable[..., object], tuple[float, ...]] | None] = {
    0: None,
    1: (F.relu, ()),
    2: (F.hardtanh, (-1.0, 1.0)),
    3: (F.relu6, ()),
}


class Importer:
    """Writes the operators of a subgraph, one after the other.

    Attributes:
        writer: of the module.
        graph: the subgraph.
    """

    def __init__(self, graph: Subgraph, writer: ModuleWriter) -> None:
        self.graph, self.writer = graph, writer
        self._laid: dict[int, Laid] = {}
        self._known: dict[int, np.ndarray] = {i: t.data for i, t in enumerate(graph.tensors) if t.data is not None}
        self._names = {i: t.name for i, t in enumerate(graph.tensors)}
        self._arrays: dict[str, np.ndarray] = {}
        self._forms: dict[tuple[str, tuple[int, ...]], Value] = {}

    def take_inputs(self, sizes: Sequence[Sequence[int]]) -> None:
        """Write the inputs. Their axis of samples, mostly the first, is free; ``sizes``: an example that the file takes."""
        examples = sizes or [()] * len(self.graph.inputs)
        tensors = [self.graph.tensors[number] for number in self.graph.inputs]
        _, axes = sample_axes([tensor.shape for tensor in tensors])
        fixed = None in axes  # one sample fills an input
        for number, name, tensor, example, samples in zip(
            self.graph.inputs, self.graph.input_names, tensors, examples, axes, strict=True
        ):
            free = None if fixed else samples
            shape, tried = (tuple(None if axis == free else n for axis, n in enumerate(of)) for of in (tensor.shape, example))
            value = self.writer.input(name, shape, torch_type(tensor), tried)
            self._laid[number] = Laid(value, as_in_file(len(shape)))

    def outputs(self) -> list[Value]:
        """Return the outputs, their axes as the file has them."""
        for number in self.graph.outputs:
            if number not in self._laid and number not in self._known:
                raise CaptureError(f"output '{self.graph.tensors[number].name}' is written by no operator of the file")
        return [self._in_order(self._as_laid(number), None) for number in self.graph.outputs]

    def take(self, op: Operator, result: Result) -> None:
        """Keep the outputs of an operator."""
        for number, made in zip(op.outputs, result if isinstance(result, list) else [result], strict=True):
            if isinstance(made, Laid):
                self._laid[number] = made
            else:
                self._known[number] = made
                self._names[number] = self._names[op.inputs[0]]  # of the tensor that holds the weight in the file

    def hold(self, number: int, values: np.ndarray) -> None:
        """Keep the values of a tensor, which the module reads as a buffer."""
        self._known[number] = values

    def values_of(self, number: int) -> np.ndarray:
        """Return the values of a tensor that are known without running the model."""
        return self._known[number]

    # --- what an operator reads ---

    def has(self, op: Operator, index: int) -> bool:
        """Return whether an optional input is given."""
        return index < len(op.inputs) and op.inputs[index] >= 0

    def is_known(self, op: Operator, index: int) -> bool:
        """Return whether the values of an input are known without running the model."""
        return self.has(op, index) and op.inputs[index] in self._known

    def all_known(self, op: Operator) -> bool:
        """Return whether the values of all inputs are known."""
        return all(self.is_known(op, i) for i, number in enumerate(op.inputs) if number >= 0)

    def tensor(self, op: Operator, index: int) -> FileTensor:
        """Return the file's entry of an input."""
        return self.graph.tensors[op.inputs[index]]

    def laid(self, op: Operator, index: int) -> Laid:
        """Return an input as it lies."""
        if not self.has(op, index) or not (op.inputs[index] in self._laid or op.inputs[index] in self._known):
            raise CaptureError(f"{op} reads input {index}, which no operator before it writes")
        return self._as_laid(op.inputs[index])

    def plain(self, op: Operator, index: int) -> Value:
        """Return an input with its axes as the file has them."""
        return self._in_order(self.laid(op, index), None)

    def image(self, op: Operator, index: int) -> Value:
        """Return an input with its channels, the file's last axis, after the batch."""
        laid = self.laid(op, index)
        return self._in_order(laid, channels_first(laid.rank))

    def ordered(self, laid: Laid, order: tuple[int, ...] | None = None) -> Value:
        """Return a tensor with its axes in an order; None is that of the file."""
        return self._in_order(laid, order)

    def known(self, op: Operator, index: int) -> np.ndarray:
        """Return the values of an input; sizes of free axes among them are :class:`Value`.

        Raises:
            CaptureError: the input is computed from the model's inputs.
        """
        if not self.is_known(op, index):
            raise CaptureError(f"{op}: its input {index} is computed while the model runs, and must be constant")
        return self._known[op.inputs[index]]

    def numbers(self, op: Operator, index: int) -> list[int | Value]:
        """Return a known input of integers as a list."""
        return [n if isinstance(n, Value) else int(n) for n in np.ravel(self.known(op, index))]

    def integers(self, op: Operator, index: int) -> list[int]:
        """Return a known input of integers that depend on no size of the model's inputs."""
        numbers = self.numbers(op, index)
        fixed = [n for n in numbers if isinstance(n, int)]
        if len(fixed) != len(numbers):
            raise CaptureError(f"{op}: its input {index} depends on the size of the model's input, which is free")
        return fixed

    def weight(self, op: Operator, index: int, arrange: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Value:
        """Return a constant input as a parameter of the module, named after the file's tensor."""
        array = arrange(self.known(op, index))
        if array.dtype == object:
            raise CaptureError(f"{op}: its input {index} depends on the size of the model's input, which is free")
        return self.constant(array, self._names[op.inputs[index]])

    def constant(self, array: np.ndarray, name: str) -> Value:
        """Return an array as a parameter where it holds real numbers, else a buffer. One name in two forms gets two tensors."""
        wanted, number = name, 0
        while name in self._arrays and not np.array_equal(self._arrays[name], array):
            number += 1
            name = f"{wanted}_{number}"
        self._arrays[name] = array
        return self.writer.parameter(name, array) if array.dtype == np.float32 else self.writer.buffer(name, array)

    # --- what a row writes ---

    def call(self, function: Callable[..., object], *args: Argument, **kwargs: Argument) -> Value:
        """Write a call of PyTorch."""
        return self.writer.call(function, *args, **kwargs)

    def activated(self, value: Value, op: Operator) -> Value:
        """Write the activation that is fused into an operator."""
        code = getattr(op.options, "fusedActivationFunction", 0)
        if code not in _ACTIVATIONS:
            raise CaptureError(f"{op} fuses an activation that TFLite's kernels leave out: convert the file again without it")
        fused = _ACTIVATIONS[code]
        return value if fused is None else self.call(fused[0], value, *fused[1])

    # --- how ---

    def _as_laid(self, number: int) -> Laid:
        if number not in self._laid:
            array = self._known[number]
            self._laid[number] = Laid(self.constant(array, self._names[number]), as_in_file(array.ndim))
        return self._laid[number]

    def _in_order(self, laid: Laid, order: Sequence[int] | None) -> Value:
        target = as_in_file(laid.rank) if order is None else tuple(order)
        if target == laid.order:
            return laid.value
        axes = changed(laid.order, target)
        key = (laid.value.node.name, axes)
        if key not in self._forms:
            self._forms[key] = self.call(torch.permute, laid.value, axes)
        return self._forms[key]


def torch_type(tensor: FileTensor) -> torch.dtype:
    """Return PyTorch's type of a tensor of the file."""
    if tensor.dtype not in _TORCH_TYPES:
        raise CaptureError(f"tensor '{tensor.name}' has type {tensor.dtype}, which no operator of PyTorch takes")
    return _TORCH_TYPES[tensor.dtype]
