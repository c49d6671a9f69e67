"""Variables as symbolic tensors, so that what a layer's ``call`` computes of them is recorded."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops
from keras.src.backend import is_float_dtype

from .example_sizes import follow
from .full_precision import in_full

#: Keras' own lists of a layer's variables.
_LISTS = ("_trainable_variables", "_non_trainable_variables")

_ITEM = keras.KerasTensor.__getitem__


@dataclass
class _Symbols:
    """The symbolic tensors that stand for variables.

    Attributes:
        tensors: the tensor of each variable, by the variable's id.
        variables: the variables by the ids of their tensors.
        held: of each layer, by its id, the attributes that hold variables: as they are, and with tensors in place of those.
    """

    tensors: dict[int, keras.KerasTensor] = field(default_factory=dict)
    variables: dict[int, keras.Variable] = field(default_factory=dict)
    held: dict[int, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def add(self, layer: keras.layers.Layer) -> None:
        """Make the tensors of a layer's variables."""
        real = {name: value for name, value in vars(layer).items() if name not in _LISTS and _has_variables(value)}
        self.held[id(layer)] = real, {name: self._symbolic(value) for name, value in real.items()}

    def _symbolic(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._symbolic(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._symbolic(part) for part in value]
        if not isinstance(value, keras.Variable):
            return value
        if not is_float_dtype(value.dtype):
            return ops.convert_to_tensor(value)  # indices and masks are no parameters
        if id(value) not in self.tensors:
            tensor = self.tensors[id(value)] = keras.KerasTensor(value.shape, in_full(value.dtype), name=value.name)
            self.variables[id(tensor)] = value
        return self.tensors[id(value)]

    def put(self, layers: Sequence[keras.layers.Layer], symbolic: bool) -> None:
        """Put the tensors in the place of layers' variables, or those back."""
        for layer in layers:
            if id(layer) in self.held:
                vars(layer).update(self.held[id(layer)][symbolic])


@contextlib.contextmanager
def symbolic_variables(layer: keras.layers.Layer) -> Iterator[Mapping[int, keras.Variable]]:
    """Let symbolic tensors stand for the variables of a layer and of its layers, which have their own back while they are called.

    Yields:
        the variables by the ids of their tensors.
    """
    symbols, original = _Symbols(), keras.layers.Layer.__call__
    layers = layer._flatten_layers()
    for each in layers:
        symbols.add(each)

    def called(self: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, keras.layers.Embedding) and self.built and not _is_symbolic((args, kwargs)):
            return ops.take(self.embeddings, ops.convert_to_tensor(args[0]), axis=0)  # of known indices: positions, say
        inside = self._flatten_layers()
        symbols.put(inside, False)
        try:
            outputs = original(self, *args, **kwargs)
            follow(self, (args, in_inference(self, kwargs)), outputs)
            return outputs
        except Exception:  # whatever the shape inference of the user's layer raises
            # Its call may do without, as may a Sequential's, which keeps the sizes of its first input.
            of_keras = type(self).__module__.startswith("keras.") and not isinstance(self, keras.Sequential)
            if of_keras or not self.built:
                raise
        finally:
            symbols.put(inside, True)
        return self.call(*args, **in_inference(self, kwargs))

    symbols.put(layers, True)
    keras.layers.Layer.__call__ = called
    keras.KerasTensor.__getitem__ = _item
    keras.KerasTensor.__array_ufunc__ = None  # NumPy leaves ``array * tensor`` to the tensor
    try:
        yield symbols.variables
    finally:
        keras.layers.Layer.__call__ = original
        keras.KerasTensor.__getitem__ = _ITEM
        del keras.KerasTensor.__array_ufunc__
        symbols.put(layers, False)


def in_inference(layer: keras.layers.Layer, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a call as those of one in inference."""
    options = {name: value for name, value in kwargs.items() if name != "training"}
    return options | ({"training": False} if "training" in inspect.signature(layer.call).parameters else {})


def _item(tensor: keras.KerasTensor, key: Any) -> keras.KerasTensor:
    """Take a part of a symbolic tensor as one takes a tensor's: Keras lacks keys that are no tuples, ``x[:4]``."""
    return _ITEM(tensor, key if isinstance(key, (int, tuple, list)) else (key,))


def _has_variables(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_variables, value.values()))
    return isinstance(value, keras.Variable) or (isinstance(value, (list, tuple)) and any(map(_has_variables, value)))


def _is_symbolic(arguments: Any) -> bool:
    return any(isinstance(value, keras.KerasTensor) for value in keras.tree.flatten(arguments))
