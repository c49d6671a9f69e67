"""Which framework a model belongs to, and its adapter. No framework is imported before its adapter is asked for."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast, overload

from .errors import CaptureError, MissingDependencyError
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
    taken = inspect.signature(model.forward).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in taken)
