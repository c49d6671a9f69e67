"""Which framework a model belongs to, and its adapter. No framework is imported before its adapter is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast, overload

import numpy as np

from .errors import CaptureError, DataError, MissingDependencyError
from .program.caller_names import caller_names, said_of_whole
from .system.nests import is_argument, leaves
from .typing import Adapter, ConverterAdapter, PreparedModel

if TYPE_CHECKING:
    from qat.adapters import keras, tf_keras, torch

    # The adapters are modules: mypy compares their functions with the protocols here.
    _TORCH: Adapter = torch
    _KERAS: Adapter = keras
    _TF_KERAS: ConverterAdapter = tf_keras

Framework = Literal["torch", "keras", "tf_keras"]


def framework_of(model: object) -> Framework:
    """Return ``torch``, ``keras`` or ``tf_keras`` for a model, without importing any of them.

    Raises:
        CaptureError: the object is a model of none of them.
    """
    for cls in type(model).__mro__:
        root = cls.__module__.partition(".")[0]
        name = cls.__name__
        if root == "torch" and name == "Module":
            return "torch"
        if root == "keras" and name == "Model":
            return "keras"
        if root == "tf_keras" and name == "Model":
            return "tf_keras"
    raise CaptureError(
        f"{type(model).__module__}.{type(model).__name__} is neither a torch.nn.Module nor a Keras model: "
        "pass the model object itself, not its weights, file or factory"
    )


@overload
def adapter_for(framework: Literal["torch", "keras"]) -> Adapter: ...
@overload
def adapter_for(framework: Literal["tf_keras"]) -> ConverterAdapter: ...
@overload
def adapter_for(framework: Framework) -> Adapter | ConverterAdapter: ...
def adapter_for(framework: Framework) -> Adapter | ConverterAdapter:
    """Import and return the adapter of a framework.

    Raises:
        MissingDependencyError: the framework is not installed.
    """
    try:
        return cast(Adapter | ConverterAdapter, importlib.import_module(f"qat.adapters.{framework}"))
    except ImportError as error:
        extra = framework.removeprefix("tf_")
        raise MissingDependencyError(f"{framework} models need {error.name}: pip install 'qat-toolkit[{extra}]'") from error


def is_prepared(model: object) -> TypeGuard[PreparedModel]:
    """Whether a model came out of :func:`qat.prepare`. One of ``tf_keras`` has no plan: see :func:`has_plan`."""
    return bool(getattr(model, "qat_prepared", False))


def has_plan(model: object) -> TypeGuard[PreparedModel]:
    """Whether a model came out of :func:`qat.prepare` and is of PyTorch or Keras 3: it computes on the grid, by a plan."""
    return is_prepared(model) and framework_of(model) != "tf_keras"


def input_count(model: Any) -> int:
    """Return the number of a model's inputs: of a float PyTorch model, the parameters of ``forward`` without a default."""
    if has_plan(model):
        return len(model.plan.graph.inputs)
    if not hasattr(model, "forward"):
        return len(getattr(model, "inputs", None) or (None,))
    return sum(p.default is p.empty for p in _parameters(model))


def _parameters(model: Any) -> list[inspect.Parameter]:
    taken = inspect.signature(model.forward).parameters.values()
    return [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def in_order(model: Any, inputs: Any) -> Any:
    """Return the inputs of a batch as a tuple in the model's order, where they are nested or given by name; else as they are.

    Nested inputs of a prepared or Keras model become a flat tuple. A mapping that a PyTorch module gets holds arguments of
    ``forward`` by name, and the defaults stand for those between that it lacks; a mapping of none of their names is an argument.

    Raises:
        DataError: the model has no input of a name, or needs one that is not given.
    """
    if not has_plan(model) and hasattr(model, "forward"):
        taken = _parameters(model)
        alone = is_argument(inputs, [p.name for p in taken], sum(p.default is p.empty for p in taken))
        return _arguments(model, inputs) if isinstance(inputs, Mapping) else (inputs,) if alone else inputs
    found = list(leaves(inputs))
    if not any(isinstance(key, str) for path, _ in found for key in path[:1]):
        return tuple(leaf for _, leaf in found) if any(len(path) > 1 for path, _ in found) else inputs
    given = dict(zip(caller_names([path for path, _ in found], [""] * len(found)), (leaf for _, leaf in found), strict=True))
    given = _without_settings(model, given)
    known = _input_names(model)
    unknown = [name for name in given if not any(name in names for names in known)]
    chosen = [next((name for name in names if name in given), None) for names in known]
    lacking = [names[0] for names, name in zip(known, chosen, strict=True) if name is None]
    if unknown or lacking:
        raise _unfit(unknown, lacking, [names[0] for names in known])
    return tuple(given[name] for name in chosen if name is not None)


def flattened(model: Any, inputs: Any) -> tuple[Any, tuple[np.ndarray, ...]]:
    """Return a float model that takes the arrays of a batch, each as an argument, and those arrays.

    Of a PyTorch model whose arguments are nested, or no tensors, that is one around it.
    """
    ordered = in_order(model, inputs)
    if framework_of(model) == "torch":
        from .adapters.torch.flat_model import flattened as around

        return around(model, ordered)
    return model, tuple(np.asarray(x) for x in adapter_for(framework_of(model)).inputs_of((ordered,)))


def _without_settings(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a batch holds by name without arguments that are no tensors: a PyTorch model was captured with them.

    Raises:
        DataError: one of them is another than that.
    """
    prepared = getattr(model, "prepared", None)  # of PyTorch
    settings = {} if prepared is None else prepared.signature.named_settings
    fixed = {name for name in settings.keys() & given.keys() if not hasattr(given[name], "shape")}
    for name in sorted(fixed):
        if settings[name] != given[name]:
            raise DataError(
                f"'{name}' is {given[name]!r}, and the model was prepared with {settings[name]!r}: prepare it with the "
                "value that the data hold"
            )
    return {name: value for name, value in given.items() if name not in fixed}


def _arguments(model: Any, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the arguments of a float module's ``forward`` by position."""
    parameters = _parameters(model)
    names, needed = [p.name for p in parameters], [p.name for p in parameters if p.default is p.empty]
    unknown, lacking = [name for name in inputs if name not in names], [name for name in needed if name not in inputs]
    if len(unknown) == len(inputs) and names and len(needed) <= 1:
        return (inputs,)
    if unknown or lacking:
        raise _unfit(unknown, lacking, names)
    last = max(names.index(name) for name in inputs)
    return tuple(inputs.get(p.name, p.default) for p in parameters[: last + 1])


def taken_whole(model: Any, inputs: Any) -> str:
    """Return what to say of a mapping that a float PyTorch model was given as one argument; empty where it was not."""
    if has_plan(model) or not hasattr(model, "forward"):
        return ""
    return said_of_whole([p.name for p in _parameters(model)], inputs)


def _unfit(unknown: list[str], lacking: list[str], names: list[str]) -> DataError:
    said = f"there is no input '{unknown[0]}'" if unknown else f"the input '{lacking[0]}' is not given"
    return DataError(f"{said}: the model's inputs are {', '.join(names)}")


def _input_names(model: Any) -> list[list[str]]:
    """Return the names of each input of a prepared or a Keras model in order, the user's own first."""
    if has_plan(model):
        signature = getattr(model, "signature", None)  # of Keras
        inputs = model.plan.graph.inputs
        if (prepared := getattr(model, "prepared", None)) is not None:  # of PyTorch
            return [["_".join(map(str, path)), name] for path, name in prepared.signature.inputs.items()]
        keys, layers = getattr(signature, "inputs", None), getattr(signature, "input_layers", {})
    else:
        inputs = tuple(tensor.name for tensor in model.inputs)
        keys, layers = getattr(model, "_inputs_struct", None), {}
    paths = [(path, tensor) for path, tensor in leaves(keys) if any(isinstance(key, str) for key in path)]
    names = caller_names([path for path, _ in paths], [""] * len(paths))
    tensor_of = {**{name: tensor for name, (_, tensor) in zip(names, paths, strict=True)}, **layers}
    named = {key: getattr(tensor, "name", tensor) for key, tensor in tensor_of.items()}
    return [[*(key for key, tensor in named.items() if tensor == name), name] for name in inputs]
