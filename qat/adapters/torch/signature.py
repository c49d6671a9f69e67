"""The inputs and outputs of the user's model, which the prepared model takes and returns in the same form."""

from __future__ import annotations

import inspect
import keyword
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qat.errors import CaptureError, DataError
from qat.program.caller_names import caller_names
from qat.system.nests import Path, is_argument

from .nests import Nest, filled, opened, paths_of

#: What an argument may be besides tensors: it is part of the captured model then.
SETTINGS = (bool, int, float, str, torch.dtype, type(None))
#: What is said of a model that holds TorchScript, by the name of its class.
TORCHSCRIPT = (
    "{} holds TorchScript, which has lost the code that a capture reads: pass the nn.Module that torch.jit.script or "
    "torch.jit.trace was given"
)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Signature:
    """The form of a model's inputs and outputs.

    Attributes:
        forward: the parameters of the user's ``forward``.
        inputs: the tensor of each input, by the path of its argument; those of an earlier stage have no tensors yet.
        settings: the arguments that are no tensors, by their paths. The model was captured with them.
        input_names: the callers' names of the inputs.
        outputs: the form of the outputs; None where the model returns one tensor.
        leaves: the tensor of each leaf of the outputs; None where it is none.
    """

    forward: inspect.Signature
    inputs: Mapping[Path, str]
    settings: Mapping[Path, Any]
    input_names: tuple[str, ...]
    outputs: Nest | None = None
    leaves: tuple[str | None, ...] = ()

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the input tensors in their order, from the arguments of a call.

        Tensors in their order are taken as they are: a model of two inputs takes ``model(a, b)``, whatever containers hold these.

        Raises:
            DataError: an input is missing, or an argument is given with which the model was not captured.
        """
        if not kwargs and len(args) == len(self.inputs) and all(isinstance(x, Tensor) for x in args):
            return tuple(args)
        given = dict(_leaves(_bound(self.forward, args, kwargs)))
        for path, value in given.items():
            if path not in self.inputs and not _same(self.settings.get(path, _default(self.forward, path)), value):
                raise DataError(
                    f"'{self._said(path)}' is not among the example inputs that the model was prepared with "
                    f"({', '.join(map(self._said, self.inputs))}): prepare the model with it"
                )
        missing = [path for path in self.inputs if path not in given]
        if missing:
            takes = ", ".join(map(self._said, self.inputs))
            raise DataError(f"the input '{self._said(missing[0])}' is not given: the model takes {takes}")
        return tuple(given[path] for path in self.inputs)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, with those that the model was captured with."""
        captured = {str(path[0]): value for path, value in self.settings.items() if len(path) == 1 and value is not None}
        given = _bound(self.forward, args, kwargs)
        free = [p.name for p in self.forward.parameters.values() if p.kind is p.VAR_KEYWORD]
        return captured | {**given, **(given.pop(free[0], {}) if free else {})}

    def write(self, leaves: Sequence[Any]) -> Any:
        """Return the outputs as the user's model returns them."""
        return filled(self.outputs, iter(leaves))

    @property
    def named_settings(self) -> dict[str, Any]:
        """The arguments that are no tensors, by the names that callers know them by."""
        anonymous = _anonymous(self.forward, list(self.inputs))
        paths = [path[1:] if path[0] in anonymous else path for path in self.settings]
        return dict(zip(caller_names(paths, ["_".join(map(str, path)) for path in paths]), self.settings.values(), strict=True))

    def _said(self, path: Path) -> str:
        first, *rest = _callers_paths(self.forward, [path, ()])[0]
        return str(first) + "".join(f"[{part!r}]" for part in rest)

    @property
    def is_plain(self) -> bool:
        """Whether an FX graph can hold the outputs in their form."""
        return self.outputs is None or self.outputs.is_plain

    @property
    def output_paths(self) -> list[Path]:
        """The path of each leaf of the outputs."""
        return list(paths_of(self.outputs))


@dataclass(frozen=True)
class Call:
    """How a model is called with the inputs of a batch.

    Attributes:
        forward: the parameters of ``forward``.
        arguments: its arguments by name, tensors among them.
    """

    forward: inspect.Signature
    arguments: Mapping[str, Any]

    @property
    def tensors(self) -> dict[Path, Tensor]:
        """The tensors among the arguments, by path."""
        return {path: leaf for path, leaf in _leaves(self.arguments) if isinstance(leaf, Tensor)}

    def split(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments by position, and those by name."""
        bound = inspect.BoundArguments(self.forward, OrderedDict(self.arguments))
        return bound.args, bound.kwargs

    def with_tensors(self, tensors: Sequence[Tensor]) -> Call:
        """Return the same call with other tensors in the places of its own."""
        waiting = iter(tensors)
        nest, leaves = opened(self.arguments)
        return replace(self, arguments=filled(nest, iter([next(waiting) if isinstance(x, Tensor) else x for x in leaves])))

    def signature(self) -> Signature:
        """Return the form of the inputs, each with a name that can be an identifier."""
        paths = _callers_paths(self.forward, list(self.tensors))
        names = caller_names(paths, ["_".join(map(str, path)) for path in paths])
        settings = {path: leaf for path, leaf in _leaves(self.arguments) if not isinstance(leaf, Tensor)}
        tensors = dict(zip(self.tensors, _identifiers(names), strict=True))
        return Signature(_bare(self.forward), tensors, settings, names)


def call_of(model: nn.Module, inputs: Any) -> Call:
    """Return how a float model is called with the inputs of a batch.

    Args:
        model: the float model.
        inputs: a tensor or an array, which is the first argument; a tuple or list, of arguments in their order; a mapping, of
            arguments by name. A mapping whose keys are no arguments is the only argument that the model needs. The arguments may
            be nested, and hold tensors, arrays and settings (numbers, strings, None).

    Raises:
        DataError: the inputs do not fit ``forward``, or hold something else.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(TORCHSCRIPT.format(type(model).__name__))
    forward = inspect.signature(model.forward)
    if isinstance(inputs, Mapping):
        arguments = _named(forward, inputs)
    else:
        takes = own_parameters(forward)
        alone = is_argument(inputs, [p.name for p in takes], sum(p.default is p.empty for p in takes))
        several = isinstance(inputs, (tuple, list)) and not alone
        arguments = _bound(forward, inputs if several else (inputs,), {})
    nest, leaves = opened(arguments)
    real = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return Call(forward, filled(nest, iter([_leaf(leaf, real) for leaf in leaves])))


def own_parameters(forward: inspect.Signature) -> list[inspect.Parameter]:
    """Return the parameters that ``forward`` names: all but ``*args`` and ``**kwargs``."""
    return [p for p in forward.parameters.values() if p.kind not in _VARIABLE]


def _named(forward: inspect.Signature, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a mapping holds, by name."""
    takes = own_parameters(forward)
    free = any(p.kind is p.VAR_KEYWORD for p in forward.parameters.values())
    unknown = [name for name in inputs if name not in {p.name for p in takes}]
    needed = [p.name for p in takes if p.default is p.empty]
    if unknown and len(unknown) == len(inputs) and (needed or takes) and len(needed) <= 1:
        return {(needed or [p.name for p in takes])[0]: inputs}
    lacking = [name for name in needed if name not in inputs]
    if lacking or (unknown and not free):
        said = f"there is no input '{unknown[0]}'" if unknown and not free else f"the input '{lacking[0]}' is not given"
        raise DataError(f"{said}: the model's inputs are {', '.join(p.name for p in takes)}")
    named: dict[str, Any] = {p.name: inputs[p.name] for p in takes if p.name in inputs}
    rest = next((p.name for p in forward.parameters.values() if p.kind is p.VAR_KEYWORD), "")
    return named | ({rest: {name: inputs[name] for name in unknown}} if unknown else {})


def _bound(forward: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(forward.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise DataError(f"the inputs do not fit the model's forward{_shown(forward)}: {error}") from error


def _shown(forward: inspect.Signature) -> str:
    return f"({', '.join(str(p) for p in _bare(forward).parameters.values())})"


def _bare(forward: inspect.Signature) -> inspect.Signature:
    """Return the parameters without annotations, and without defaults but settings: both may be anything, and are stored."""
    return inspect.Signature([
        p.replace(annotation=p.empty, default=p.default if p.default is p.empty or isinstance(p.default, SETTINGS) else None)
        for p in forward.parameters.values()
    ])  # fmt: skip


def _leaves(arguments: Mapping[str, Any]) -> list[tuple[Path, Any]]:
    nest, leaves = opened(dict(arguments))
    return list(zip(paths_of(nest), leaves, strict=True))


def _leaf(value: Any, real: torch.dtype) -> Any:
    """Return a leaf as a tensor, or as the setting that it is; NumPy's own float64 in the type of the model's weights."""
    if isinstance(value, (Tensor, *SETTINGS)):
        return value
    array = value if isinstance(value, np.ndarray) else np.array(value) if hasattr(value, "__array__") else None
    if array is None:
        raise DataError(
            f"a sample holds a {type(value).__name__}: yield tensors, arrays, tuples of them, or (inputs, labels) pairs"
        )
    tensor = torch.from_numpy(np.asarray(array, order="C"))
    return tensor.to(real) if tensor.dtype == torch.float64 else tensor


def _callers_paths(forward: inspect.Signature, paths: list[Path]) -> list[Path]:
    """Return the paths as callers know them: without the name of ``**kwargs``, or of the only argument where it is a mapping."""
    anonymous = _anonymous(forward, paths)
    return [path[1:] if path[:1] and path[0] in anonymous else path for path in paths]


def _anonymous(forward: inspect.Signature, paths: list[Path]) -> set[str | int]:
    """Return the arguments that hold others by name, and whose own name callers do not know."""
    found: set[str | int] = {p.name for p in forward.parameters.values() if p.kind is p.VAR_KEYWORD}
    if len({path[:1] for path in paths}) == 1 and all(len(path) > 1 and isinstance(path[1], str) for path in paths):
        found.add(paths[0][0])
    return found


def _identifiers(names: Sequence[str]) -> tuple[str, ...]:
    found = [re.sub(r"\W|^(?=\d)", "_", name) for name in names]
    return caller_names([()] * len(found), [f"{name}_" if keyword.iskeyword(name) else name for name in found])


def _default(forward: inspect.Signature, path: Path) -> Any:
    """Return the default of the parameter at a path; ``empty`` where there is none."""
    parameter = forward.parameters.get(str(path[0])) if len(path) == 1 else None
    return inspect.Parameter.empty if parameter is None else parameter.default


def _same(expected: Any, given: Any) -> bool:
    """Whether an argument that is no input is the one that the model was captured with; None says nothing."""
    return given is None or (not isinstance(given, Tensor) and expected is not inspect.Parameter.empty and expected == given)
