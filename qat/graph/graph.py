"""The framework-neutral model graph: an adapter's ``trace`` returns it, and the planner reads it.

Operators carry the names of :data:`qat.graph.kinds.KINDS` whatever the framework calls them. An operator without a name there
has the kind ``float``: it keeps its framework's implementation and runs in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qat.system.sample_axes import Axes, sample_axes

from .kinds import KINDS

#: The names of the axes after batch and channels, by rank, of an input that leaves their sizes free.
AXES: dict[int, tuple[str, ...]] = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
#: The name of the axis after the batch in what a language model reads: indices and masks ``[batch, tokens]``, vectors
#: ``[batch, tokens, values]``.
TOKENS = "tokens"
#: Every name of an axis of which the size may be free.
AXIS_NAMES = tuple(sorted({TOKENS, *(name for axes in AXES.values() for name in axes)}))


def axis_name(rank: int, axis: int) -> str:
    """Return the name of an axis of an input that leaves its size free; that of another axis is its number.

    Examples:
        >>> axis_name(4, 2), axis_name(2, 1), axis_name(4, 1)
        ('height', 'tokens', '1')
    """
    names = AXES.get(rank, ())
    return names[axis - 2] if 0 <= axis - 2 < len(names) else TOKENS if axis == 1 and rank in (2, 3) else str(axis)


#: Of the shapes given as examples: neither 1, which PyTorch takes for fixed, nor 2, which many sizes are.
EXAMPLE_BATCH = 3


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of the graph. ``shape`` has None where the size is not fixed (the batch).

    ``example`` is the shape for a batch of :data:`EXAMPLE_BATCH` where a size that is not fixed is not the batch alone: windows
    or heads may be folded into it.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    example: tuple[int, ...] = ()


@dataclass(frozen=True)
class Op:
    """One operator: ``params`` maps a role (``weight``) to the name of a parameter (``features.0.weight``).

    ``scope`` is the path of the layer in the user's model, empty for a function of none. ``stays_float`` is the reason why the
    model itself leaves no integers to it; empty where it may run in integers.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    stays_float: str = ""

    @property
    def output(self) -> str:
        """The only output."""
        return self.outputs[0]

    @property
    def layer(self) -> str:
        """The path of its layer, else its name: what plans and files call it, and what the rules of recipes match."""
        return self.scope or self.name

    @property
    def label(self) -> str:
        """The name that users read: the framework's own of an operator that the framework runs."""
        return str(self.attrs["target"]) if KINDS[self.kind].framework else self.kind

    def to_dict(self) -> dict[str, Any]:
        """Return the operator as JSON-ready values; :meth:`from_dict` reads it back."""
        return {
            "name": self.name,
            "kind": self.kind,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "params": dict(self.params),
            "attrs": dict(self.attrs),
            "scope": self.scope,
            "stays_float": self.stays_float,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Op:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{name: as_tuples(value) for name, value in data.items()})


@dataclass(frozen=True)
class Graph:
    """Operators in topological order. ``layout`` is ``NCHW`` (PyTorch) or ``NHWC`` (Keras)."""

    name: str
    layout: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]
    tensors: Mapping[str, TensorSpec]

    @property
    def input_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shapes of the inputs by name, in their order."""
        return {name: self.tensors[name].shape for name in self.inputs}

    @property
    def sample_axes(self) -> Axes:
        """The axes of the inputs that count the samples."""
        return sample_axes(list(self.input_shapes.values()))[1]

    def consumers(self) -> dict[str, list[Op]]:
        """Map each tensor to the operators that read it."""
        out: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in op.inputs:
                out.setdefault(name, []).append(op)
        return out

    def producers(self) -> dict[str, Op]:
        """Map each tensor to the operator that writes it; graph inputs are absent."""
        return {name: op for op in self.ops for name in op.outputs}

    def replace(self, **changes: Any) -> Graph:
        """Return a copy with the given fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as JSON-ready values; :meth:`from_dict` reads it back."""
        return {
            "name": self.name,
            "layout": self.layout,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "ops": [op.to_dict() for op in self.ops],
            "tensors": [
                {"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "example": list(t.example)}
                for t in self.tensors.values()
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Graph:
        """Read what :meth:`to_dict` wrote."""
        ops = tuple(Op.from_dict(op) for op in data["ops"])
        tensors = {
            t["name"]: TensorSpec(t["name"], tuple(t["shape"]), t["dtype"], tuple(t.get("example", ()))) for t in data["tensors"]
        }
        return cls(data["name"], data["layout"], tuple(data["inputs"]), tuple(data["outputs"]), ops, tensors)


def as_tuples(value: Any) -> Any:
    """Turn the lists that JSON made of tuples back into tuples, at any depth."""
    if isinstance(value, Mapping):
        return {name: as_tuples(v) for name, v in value.items()}
    return tuple(as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
