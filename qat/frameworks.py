"""Which framework a model belongs to, and its adapter. No framework is imported before its adapter is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from .errors import CaptureError, MissingDependencyError


def framework_of(model: Any) -> str:
    """Return ``torch``, ``keras`` or ``tf_keras`` for a model, without importing any of them.

    Raises:
        CaptureError: the object is a model of none of them.
    """
    for cls in type(model).__mro__:
        root = cls.__module__.partition(".")[0]
        name = cls.__name__
        if root == "torch" and name == "Module":
            return "torch"
        if root in ("keras", "tf_keras") and name == "Model":
            return root
    raise CaptureError(
        f"{type(model).__module__}.{type(model).__name__} is neither a torch.nn.Module nor a Keras model: "
        "pass the model object itself, not its weights, file or factory"
    )


def adapter_for(framework: str) -> ModuleType:
    """Import and return the adapter of a framework.

    Raises:
        MissingDependencyError: the framework is not installed.
    """
    try:
        return importlib.import_module(f"qat.adapters.{framework}")
    except ImportError as error:
        extra = framework.removeprefix("tf_")
        raise MissingDependencyError(f"{framework} models need {error.name}: pip install 'qat-toolkit[{extra}]'") from error


def is_prepared(model: Any) -> bool:
    """Whether a model came out of :func:`qat.prepare`."""
    return bool(getattr(model, "qat_prepared", False))
