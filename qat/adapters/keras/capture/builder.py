"""The graph under construction: the half of the capture that rules call to add operators, tensors and parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from qat.graph.computed_weights import factor_of
from qat.graph.graph import Op, TensorSpec
from qat.graph.kinds import FUNCTIONS

from .layer_calls import ONE_TENSOR, Arguments, Call, with_placeholders
from .training_acts import Acts
from .weight_function import WeightFunction

Shape = tuple[int | None, ...]


class Builder:
    """Collects the operators, tensors and parameters of a neutral graph.

    Attributes:
        ops, specs, params: the operators in order, the tensors' descriptions and the parameters' values by name.
        frozen: the parameters that are not trained.
        layers, arguments: the layer of each operator that keeps one, and the arguments of its call, by the operator's name.
        names: the graph's name of each symbolic tensor of Keras, by the id of the tensor.
        walk: adds the operators of a call within another, from its record and the scope that it stands in.
        spare: tensors whose operators go where nothing reads them.
        channels_last: the tensor of which one is the transpose with the channels first, both by name.
        turned: the parameter of two axes of which a tensor is the transpose, both by the names of tensors.
        opened: what layers were found to consist of; held, since :attr:`names` goes by the ids of its tensors.
        acts: what training does with the tensors.
        computed: the parameters that are computed from others, by name.
    """

    def __init__(self, dropout: bool = True) -> None:
        self.acts = Acts(dropout)
        self.ops: list[Op] = []
        self.specs: dict[str, TensorSpec] = {}
        self.params: dict[str, np.ndarray] = {}
        self.frozen: set[str] = set()
        self.layers: dict[str, keras.Operation] = {}
        self.arguments: dict[str, Arguments] = {}
        self.names: dict[int, str] = {}
        self.walk: Callable[[Any, str], None] = _no_walk
        self.spare: set[str] = set()
        self.channels_last: dict[str, str] = {}
        self.turned: dict[str, str] = {}
        self.opened: list[Any] = []
        self.computed: dict[str, WeightFunction] = {}
        self._variables: dict[int, str] = {}
        self._used: set[str] = set()

    def emit(
        self,
        kind: str,
        inputs: Sequence[str],
        output: keras.KerasTensor | Shape,
        path: str,
        params: Mapping[str, Any] | None = None,
        **attrs: Any,
    ) -> str:
        """Add an operator whose output has the shape of ``output``, and return the output's name.

        ``params`` are variables of a layer, arrays, which are not trained, or names of parameters, by role; None is left out.
        """
        name = self.unique(f"{path}_{kind}" if kind in ("relu", "relu6") or kind in FUNCTIONS else path)
        named = {role: self._named(value, role, path) for role, value in (params or {}).items() if value is not None}
        return self._add(Op(name, kind, tuple(inputs), (name,), named, attrs, path), output)

    def reshape(self, source: str, shape: Shape, name: str, path: str) -> str:
        """Add a change of shape that keeps the batch first, and return the output's name."""
        made = self.unique(name)
        return self._add(Op(made, "reshape", (source,), (made,), {}, {"shape": (-1, *shape[1:])}, path), shape)

    def keep(
        self,
        kind: str,
        layer: keras.Operation,
        inputs: Sequence[str],
        outputs: Sequence[keras.KerasTensor],
        path: str,
        arguments: Arguments = ONE_TENSOR,
        target: str = "",
        **attrs: Any,
    ) -> tuple[str, ...]:
        """Add an operator that keeps its layer, of kind ``float`` or ``move``, and return its outputs' names.

        ``target`` names a layer that a rule has made; by default that is the layer's class.
        """
        base = f"{path}_{target}" if target else path
        names = tuple(self.unique(f"{base}_{index}" if index else base) for index in range(len(outputs)))
        narrow: Arguments = keras.tree.map_structure(_narrowed, arguments)
        self.layers[names[0]], self.arguments[names[0]] = layer, narrow
        self.specs |= {name: self._spec(name, tensor, inputs) for name, tensor in zip(names, outputs, strict=True)}
        attrs = {"target": target or type(layer).__name__, **attrs}
        self.ops.append(Op(names[0], kind, tuple(inputs), names, {}, attrs, path))
        return names

    def computes(self, what: str, c: Call, kind: str = "float", **attrs: Any) -> str:
        """Add an operator that keeps its layer and may be a piece of a function, and return its output's name."""
        return self.keep(kind, c.layer, c.inputs, [c.output], c.path, with_placeholders(c.arguments), computes=what, **attrs)[0]

    def constant(self, value: np.ndarray, path: str) -> str:
        """Add an array that takes part as an activation does, and return its tensor's name."""
        name = self.unique(f"{path}_constant")
        self.params[name] = value
        self.frozen.add(name)
        return self._add(Op(name, "constant", (), (name,), {"value": name}, {}, path), value.shape)

    def array(self, value: np.ndarray, name: str) -> str:
        """Add an array as a parameter that is not trained, and return its name."""
        name = _numbered(name, self.params)
        self.params[name] = value.astype(np.float32)
        self.frozen.add(name)
        return name

    def compute(self, source: str, weight: WeightFunction, trained: bool) -> str:
        """Add a parameter that is computed from others, and return its name, which follows that of a ``source``."""
        name = _numbered(f"{source}_computed", self.params)
        value = weight(self.params)
        self.params[name] = np.asarray(keras.ops.convert_to_numpy(value), np.float32)
        self.params[factor_of(name)] = np.ones((), np.float32)
        self.computed[name] = weight
        if not trained:
            self.frozen.add(name)
        return name

    def param(self, variable: keras.Variable, path: str) -> str:
        """Add a layer's variable as a parameter and return its name."""
        # Nested models may hold different variables of one path, and one variable may be read by several layers.
        name = self._variables.get(id(variable))
        if name is None:
            name = str(variable.path)
            name = _numbered(f"{path}/{variable.name}" if name in self.params else name, self.params)
            self._variables[id(variable)] = name
        self.params[name] = np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
        if not variable.trainable:
            self.frozen.add(name)
        return name

    def _named(self, value: Any, role: str, path: str) -> str:
        if isinstance(value, str):
            return value
        return self.array(value, f"{path}/{role}") if isinstance(value, np.ndarray) else self.param(value, path)

    def parameter(self, tensor: str) -> str | None:
        """Return the name of the parameter that a tensor is, a variable or a constant; None where it is computed."""
        return next((op.params["value"] for op in self.ops if op.kind == "constant" and op.output == tensor), None)

    def writer(self, tensor: str) -> Op | None:
        """Return the operator that writes a tensor; None of an input of the model."""
        return next((op for op in reversed(self.ops) if tensor in op.outputs), None)

    def is_parameter(self, tensor: str) -> bool:
        """Return whether a tensor is a parameter, or a constant."""
        return self.parameter(tensor) is not None

    def attempt(self, make: Callable[[], str | None]) -> str | None:
        """Return what ``make`` returns; where that is None, whatever it added is taken out again."""
        before = {name: copy(value) for name, value in vars(self).items()}
        made = make()
        if made is None:
            vars(self).update(before)
        return made

    def unique(self, name: str) -> str:
        """Return a name of letters, digits and underscores that no other operator, tensor or graph has."""
        made = _numbered(re.sub(r"\W", "_", name), self._used)
        self._used.add(made)
        return made

    def _add(self, op: Op, output: keras.KerasTensor | Shape) -> str:
        self.specs[op.output] = self._spec(op.output, output, op.inputs)
        self.ops.append(op)
        return op.output

    def _spec(self, name: str, tensor: keras.KerasTensor | Shape, inputs: Sequence[str]) -> TensorSpec:
        """Return the description of an operator's output: float32 where only an array of the user's code made it float64."""
        spec = spec_of(name, tensor)
        wide = spec.dtype == "float64" and all(self.specs[source].dtype != "float64" for source in inputs)
        return replace(spec, dtype="float32") if wide else spec


#: Adds the operators of one call of a layer and returns the name of its output; None for a layer that stays float.
Rule = Callable[[Builder, Call], str | None]


def spec_of(name: str, tensor: keras.KerasTensor | Shape) -> TensorSpec:
    """Return the description of a symbolic tensor, or of a float tensor of a shape."""
    if isinstance(tensor, (tuple, list)):
        return TensorSpec(name, tuple(tensor))
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype))


def _narrowed(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, (np.ndarray, np.floating)) and value.dtype == np.float64 else value


def _no_walk(node: Any, scope: str) -> None:
    raise NotImplementedError(scope)


def _numbered(name: str, taken: Mapping[str, Any] | set[str]) -> str:
    """Return a name, with a number behind it where it is taken."""
    candidate, n = name, 1
    while candidate in taken:
        candidate, n = f"{name}_{n}", n + 1
    return candidate
