"""What feeds what: the steps of a system, each a model or a function between models.

The values of one sample flow through the steps in their order. A step is run by calling something, so that the same system runs
on the float models, on recordings of them, on int8 artifacts, or on a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from qat.errors import ConfigError, QatError, at, nearest, reason_of

#: The value of a step: an array, several arrays, or whatever a function between models returns for the next one to read.
Value: TypeAlias = object
#: Takes the inputs of a model, batch first; returns its output, or a tuple of its outputs.
CallModel: TypeAlias = Callable[..., "np.ndarray | tuple[np.ndarray, ...]"]


@dataclass(frozen=True)
class Step:
    """One step of a system.

    Attributes:
        name: under which later steps read its value.
        reads: the names of the inputs or steps that it reads, in the order of the arguments.
        function: that is called with the models ``models`` by name, and the values it reads; None where the step is one model.
        models: the names of the models that the step calls.
    """

    name: str
    reads: tuple[str, ...]
    function: Callable[..., Value] | None
    models: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """Steps in their order.

    Attributes:
        inputs: the names of the values of a sample.
        steps: in the order in which they run.
        outputs: the names of the steps whose values are the system's.
    """

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def run(self, sample: Sequence[Value], models: Mapping[str, CallModel]) -> dict[str, Value]:
        """Return the values of ``outputs`` for one sample.

        Args:
            sample: the values of ``inputs``.
            models: to call, by name.

        Raises:
            QatError: a function or a model fails; the message names the step.
        """
        if len(sample) != len(self.inputs):
            raise QatError(f"a sample has {len(sample)} values, the system's inputs are {', '.join(self.inputs)}")
        values: dict[str, Value] = dict(zip(self.inputs, sample, strict=True))
        for step in self.steps:
            given = [values[name] for name in step.reads]
            called = {name: models[name] for name in step.models}
            try:
                values[step.name] = step.function(*given, **called) if step.function else called[step.models[0]](*given)
            except QatError as error:
                raise at(f"step '{step.name}'", error) from error
            except Exception as error:  # of a user's function: whatever it raises
                raise QatError(f"step '{step.name}' fails: {type(error).__name__}: {reason_of(error)}") from error
        return {name: values[name] for name in self.outputs}


def check(system: System, models: Sequence[str]) -> None:
    """Refuse a system that cannot run.

    Raises:
        ConfigError: a step reads what no input or earlier step gives, names an unknown model, or has a name twice; a model is
            never called; an output is no step.
    """
    known = list(system.inputs)
    for step in system.steps:
        if step.name in known:
            raise ConfigError(f"steps: the name '{step.name}' stands twice; inputs and steps have one name each")
        for name in step.reads:
            if name not in known:
                raise ConfigError(
                    f"steps: '{step.name}' reads '{name}'{nearest(name, known)}, which no input or earlier step gives; there are "
                    f"{', '.join(known)}"
                )
        for name in step.models:
            if name not in models:
                raise ConfigError(
                    f"steps: '{step.name}' calls the model '{name}'{nearest(name, models)}; models: {', '.join(models)}"
                )
        if not step.models and step.function is None:
            raise ConfigError(f"steps: '{step.name}' has neither a model nor a function")
        known.append(step.name)
    unused = [name for name in models if not any(name in step.models for step in system.steps)]
    if unused:
        raise ConfigError(f"models: no step calls '{unused[0]}': leave it out, or name it in a step's model or models")
    steps = [step.name for step in system.steps]
    for name in system.outputs:
        if name not in steps:
            raise ConfigError(f"outputs: '{name}'{nearest(name, steps)} is no step; steps: {', '.join(steps)}")


class Recording:
    """The calls of one model while samples flow through a system.

    Attributes:
        calls: the inputs of each call, a tuple of arrays.
    """

    def __init__(self, model: CallModel) -> None:
        self._model = model
        self.calls: list[tuple[np.ndarray, ...]] = []

    def __call__(self, *inputs: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """Call the model, and keep the inputs."""
        arrays = tuple(np.array(array) for array in inputs)
        if arrays and len(arrays[0]):  # of no crops there is nothing to learn
            self.calls.append(arrays)
        return self._model(*inputs)


def record(
    system: System, samples: Sequence[Sequence[Value]], models: Mapping[str, CallModel]
) -> tuple[dict[str, Recording], list[dict[str, Value]]]:
    """Let samples flow through a system of float models; return the calls of each model, and the outputs of each sample."""
    recordings = {name: Recording(model) for name, model in models.items()}
    return recordings, [system.run(sample, recordings) for sample in samples]


def in_batches(calls: Sequence[tuple[np.ndarray, ...]], size: int) -> list[tuple[np.ndarray, ...]]:
    """Return recorded calls as batches of at most ``size`` samples; inputs of other sizes are in batches of their own."""
    by_shape: dict[tuple[tuple[int, ...], ...], list[tuple[np.ndarray, ...]]] = {}
    for call in calls:
        by_shape.setdefault(tuple(array.shape[1:] for array in call), []).append(call)
    batches = []
    for same in by_shape.values():
        joined = tuple(np.concatenate(arrays) for arrays in zip(*same, strict=True))
        batches += [tuple(array[i : i + size] for array in joined) for i in range(0, len(joined[0]), size)]
    return batches
