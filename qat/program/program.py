"""The integer program: a trained model as the runtime will see it, in NumPy, free of any framework.

An adapter's ``lower`` writes it, the exporters serialise it, :mod:`qat.program.interpreter` executes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.errors import ExportError
from qat.graph.graph import EXAMPLE_BATCH
from qat.graph.kinds import KINDS
from qat.planning.modes import Mode
from qat.system.sample_axes import Axes, sample_axes

from .file_origin import FileOrigin


@dataclass(frozen=True)
class Value:
    """One tensor: quantized where it has an ``encoding``, else of ``dtype``. None in ``shape`` is the batch.

    ``axes`` says how it lies where that is not the model's own layout: its axis ``i`` is axis ``axes[i]`` of the model's tensor.
    ``example`` is that of :class:`qat.graph.graph.TensorSpec`.
    """

    name: str
    shape: tuple[int | None, ...]
    encoding: Encoding | None = None
    dtype: str = "float32"
    axes: tuple[int, ...] | None = None
    example: tuple[int, ...] = ()

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape for a batch of :data:`qat.graph.graph.EXAMPLE_BATCH`."""
        return self.example or tuple(EXAMPLE_BATCH if size is None else size for size in self.shape)

    def laid(self, array: np.ndarray) -> np.ndarray:
        """Return the model's tensor as this value lies."""
        return array if self.axes is None else array.transpose(self.axes)

    def unlaid(self, array: np.ndarray) -> np.ndarray:
        """Return this value's array as the model's tensor lies."""
        return array if self.axes is None else array.transpose(np.argsort(self.axes))


@dataclass(frozen=True, eq=False)
class Instruction:
    """One step: an integer kernel, a border (``quantize``, ``dequantize``) or a ``float`` operator.

    Kinds and attributes are those of :data:`qat.graph.kinds.STEPS`.
    Weights are in one layout whatever the framework: convolutions ``[out, in / groups, height, width]`` (a depthwise one
    ``[channels * multiplier, 1, h, w]`` with ``groups = channels``), dense ``[out, in]``.
    ``weight_encoding.axis`` is 0, or None for one scale per tensor.
    ``weight`` and ``bias`` of a norm are float32.
    The ``weight`` of a ``constant`` or ``embedding`` holds integers of the output's encoding, zero point included. That of an
    embedding with a ``weight_encoding`` holds integers of that one, or float16: its rows are the outputs of a dense layer.
    ``activation`` names the fused activation (``relu``, ``relu6``) and ``clamp`` the limits it leaves, in the output's
    integers (zero point included).

    ``mode`` is ``static``, or one of :data:`qat.planning.modes.STORED`: inputs, outputs and the bias are float then, and the
    weight is an integer one with its encoding, or float16 without. A ``packed`` weight is stored in 4 bits. ``kernels`` names the
    arithmetic where it is not the program's. ``parameter`` names the user's own behind the weight, and ``weight_name`` the tensor
    in the file, where that is another instruction's.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weight: np.ndarray | None = None
    weight_encoding: Encoding | None = None
    bias: np.ndarray | None = None
    activation: str | None = None
    clamp: tuple[int, int] | None = None
    scope: str = ""
    mode: Mode = "static"
    packed: bool = False
    kernels: str = ""
    parameter: str = ""
    weight_name: str = ""

    @property
    def weight_tensor(self) -> str:
        """The name of the tensor that holds the weight in a file."""
        return self.weight_name or f"{self.name}.weight"

    @property
    def keeps_framework(self) -> bool:
        """Whether the framework's implementation computes it, within the program's block."""
        return self.kind in KINDS and KINDS[self.kind].framework

    @property
    def label(self) -> str:
        """The name of the operator that users read: the framework's own where the framework computes it."""
        return str(self.attrs.get("target", self.name)) if self.keeps_framework else self.kind

    @property
    def layer(self) -> str:
        """The path of the layer in the user's model, for messages."""
        return self.scope or self.name


@dataclass(frozen=True, eq=False)
class FrameworkBlock:
    """All operators that keep their framework's implementation, as one callable: those that stay float, and moves.

    ``inputs`` and ``outputs`` name values of the program; those with an encoding are integers, zero point included, which only
    moves read and write. ``module`` takes the tensors ``inputs`` and returns the tensors ``outputs`` (a tuple); the exporters let
    the framework's own converter translate it once and splice the result between the integer kernels.
    """

    framework: str
    module: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """Instructions in topological order. ``kernels`` names the arithmetic: ``mlas``, ``xnnpack`` or ``reference``.

    ``inputs`` and ``outputs`` are float values; a ``quantize`` or ``dequantize`` instruction stands between them and the
    integer kernels. ``bias`` and ``strict_qdq`` are those of :class:`qat.planning.targets.Target`. ``input_names`` and
    ``output_names`` are the model's own names of them (:mod:`qat.program.caller_names`); empty: those of the values.
    ``origin`` is that of a model that was read from a file. ``scopes`` has, by the names of outputs and weights, the operators'
    names in recipes.
    """

    name: str
    layout: str
    kernels: str
    target: str
    recipe: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    instructions: tuple[Instruction, ...]
    block: FrameworkBlock | None = None
    bias: Literal["int32", "float32"] = "int32"
    strict_qdq: bool = False
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    origin: FileOrigin | None = None
    scopes: Mapping[str, str] = field(default_factory=dict)

    @property
    def sample_axes(self) -> Axes:
        """The axes of the inputs that count the samples."""
        return sample_axes([self.values[name].shape for name in self.inputs])[1]

    @property
    def read_outside(self) -> frozenset[str]:
        """The values that something else than an instruction reads: the outputs, and what the framework's block takes."""
        return frozenset((*self.outputs, *(self.block.inputs if self.block else ())))

    def readers(self) -> dict[str, list[Instruction]]:
        """Return the instructions that read each value, in order; one that reads a value twice is there twice."""
        found: dict[str, list[Instruction]] = defaultdict(list)
        for step in self.instructions:
            for name in step.inputs:
                found[name].append(step)
        return found

    def encoding_of(self, name: str) -> Encoding:
        """Return the encoding of a quantized value.

        Raises:
            ExportError: the value is not quantized.
        """
        encoding = self.values[name].encoding
        if encoding is None:
            raise ExportError(f"'{name}' is read or written by an integer kernel but has no encoding")
        return encoding

    def encodings(self) -> dict[str, dict[str, object]]:
        """Every encoding by tensor name, weights under :attr:`Instruction.weight_tensor`, as JSON-ready values."""
        out = {v.name: v.encoding.to_dict() for v in self.values.values() if v.encoding is not None}
        for step in self.instructions:
            if step.weight_encoding is not None:
                out[step.weight_tensor] = step.weight_encoding.to_dict()
        return out
