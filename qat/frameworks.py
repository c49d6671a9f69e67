"""Framework adapters. Both have the same face: ``trace``, ``insert``, ``lower`` and what calibration and verification need."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from .errors import CaptureError, DataError, MissingDependencyError


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


def batches_of(data: Any, what: str) -> Iterable[Any]:
    """Return an iterable of batches; one array or tensor is a single batch.

    Raises:
        DataError: the object cannot be iterated.
    """
    if hasattr(data, "shape"):
        return [data]
    if not isinstance(data, Iterable):
        raise DataError(f"{what}: expected batches (a DataLoader, tf.data, a list of arrays), found {type(data).__name__}")
    return data


def check_fit(plan: Any, arrays: Sequence[Any]) -> None:
    """Raise DataError unless arrays or tensors fit a prepared model's inputs; a size of None is any."""
    names = plan.graph.inputs
    if len(arrays) != len(names):
        raise DataError(f"the model has {len(names)} inputs, {len(arrays)} were given")
    for name, array in zip(names, arrays, strict=True):
        want, have = plan.graph.tensors[name].shape, tuple(array.shape)
        if len(want) != len(have) or any(w not in (None, h) for w, h in zip(want, have, strict=True)):
            raise DataError(f"input '{name}' has shape {have}, the model takes {want} (None: any size)")
        if 0 in have:
            raise DataError(f"input '{name}' has shape {have}: the batch holds no samples")


def first_of_pair(sample: Any, inputs: int = 1) -> Any:
    """Return the inputs of a sample: a pair or triple ``(inputs, labels[, weights])`` is cut, anything else kept.

    A list or tuple of length one is its only element. Where the model has several ``inputs``, a flat tuple of so many arrays
    is those; with labels they are written ``((a, b), labels)``.
    """
    if isinstance(sample, (tuple, list)):
        if inputs > 1 and len(sample) == inputs and all(hasattr(x, "shape") for x in sample):
            return tuple(sample)
        if len(sample) == 0:
            raise CaptureError("a calibration sample is an empty tuple: yield input batches, or (inputs, labels) pairs")
        return sample[0]
    return sample
