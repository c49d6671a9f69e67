"""The like of a ``tf_keras`` layer: the Keras 3 layer of its class, by its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tf_keras

from qat.errors import ConversionError, reason_of

#: Options that do not say what a layer computes: its inputs' shapes, which these have themselves, the order of products, and how
#: random numbers are drawn.
_NOT_WHAT = ("batch_input_shape", "query_shape", "key_shape", "value_shape", "implementation", "rng_type", "trainable")

#: By class: the name of its like, and the names there of options that Keras 3 calls otherwise.
_RENAMED = {"LeakyReLU": ("LeakyReLU", {"alpha": "negative_slope"}), "ThresholdedReLU": ("ReLU", {"theta": "threshold"})}


@keras.saving.register_keras_serializable("qat")
def hard_sigmoid_of_keras2(x: Any) -> Any:
    """Return what ``tf_keras`` computes by the name of hard sigmoid, which is less steep than Keras 3's."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


#: By name: the activations that Keras 3 computes otherwise.
_ACTIVATIONS = {"hard_sigmoid": hard_sigmoid_of_keras2}


def no_like(layer: Any, why: str = "") -> ConversionError:
    """Return the error that names a layer, or a model in the model; ``why`` goes on from "has no like in Keras 3"."""
    return ConversionError(f"layer '{layer.name}' ({type(layer).__name__}) has no like in Keras 3{why}")


def like_of(layer: Any) -> keras.layers.Layer:
    """Return the Keras 3 layer that computes what a ``tf_keras`` layer does; its weights are its own.

    Raises:
        ConversionError: the layer is the user's own, or an option of it is.
    """
    kind = type(layer)
    like = _class_of(kind.__name__)
    if like is None or kind.__module__.partition(".")[0] != "tf_keras":
        raise no_like(layer)
    if kind.__name__ == "Lambda":
        given = {"function": layer.function, "mask": layer.mask, "arguments": layer.arguments}
        return keras.layers.Lambda(**given, name=_name(layer.name), dtype=layer.dtype)
    config = _options(kind, like, layer.get_config(), layer)
    config["name"] = _name(layer.name)
    if kind.__name__ == "BatchNormalization" and isinstance(config["axis"], list):
        (config["axis"],) = config["axis"]
    try:
        made: keras.layers.Layer = like.from_config(config)
    except Exception as error:  # whatever a configuration that Keras 3 does not know makes it raise
        raise no_like(layer, f": {reason_of(error)}") from error
    made.trainable = layer.trainable
    return made


def _class_of(name: str) -> Any:
    """Return the class of Keras 3 that a layer's like is of; None where there is none."""
    return getattr(keras.layers, _RENAMED.get(name, (name, {}))[0], None)


def take_weights(like: keras.layers.Layer, layer: Any) -> None:
    """Give a built layer the weights of the ``tf_keras`` layer whose like it is.

    Raises:
        ConversionError: the two have other weights.
    """
    if type(layer).__name__ == "SpectralNormalization":  # whose weights have another order
        like.vector_u.assign(layer.vector_u.numpy())
        like, layer = like.layer, layer.layer
    arrays = layer.get_weights()
    have, want = [tuple(w.shape) for w in like.weights], [a.shape for a in arrays]
    if have != want:
        raise no_like(layer, f": its weights have the shapes {want}, those of Keras 3 {have}")
    like.set_weights(arrays)
    if hasattr(like, "finalize_state"):  # of a Normalization, which computes with what follows from its weights
        like.finalize_state()


def _name(name: str) -> str:
    """Return a layer's name as Keras 3 takes it, which keeps the slash for its variables."""
    return name.replace("/", "_")


def _options(kind: type, like: type, config: Mapping[str, Any], layer: Any) -> dict[str, Any]:
    """Return the configuration of a class as its like takes it; without options that say what Keras 3 does anyway."""
    names = _RENAMED.get(kind.__name__, ("", {}))[1]
    found = {names.get(name, name): _option(name, value, layer) for name, value in config.items() if name not in _NOT_WHAT}
    known = {name for name, _ in _parameters(like)}
    for name in [name for name in found if name not in known]:
        told = found[name] is not None and not name.endswith("_initializer")  # a weight has its values already
        if told and not any(n == name and _plain(default, layer) == found[name] for n, default in _parameters(kind)):
            raise no_like(layer, f" with {name}={found[name]!r}")
        del found[name]
    return found


def _option(name: str, value: Any, layer: Any) -> Any:
    activation = _ACTIVATIONS.get(value) if name.endswith("activation") and isinstance(value, str) else None
    return activation or _plain(value, layer)


def _plain(value: Any, layer: Any) -> Any:
    """Return a part of a configuration in plain values, the layers and objects in it as Keras 3 takes them."""
    if isinstance(value, Mapping):
        if value.get("class_name") in ("Policy", "PolicyV1"):
            return value["config"]["name"]
        found = {name: _plain(item, layer) for name, item in value.items()}
        name = str(value.get("class_name"))
        kind, like = getattr(tf_keras.layers, name, None), _class_of(name)
        if kind is not None and like is not None:  # of a wrapper
            found |= {"class_name": like.__name__, "config": _options(kind, like, value["config"], layer)}
        if isinstance(value.get("module"), str):
            found["module"] = value["module"].replace("tf_keras", "keras", 1)
        return found
    if isinstance(value, (list, tuple)):
        return [_plain(item, layer) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _parameters(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the names and defaults of the parameters of a class, and of those that it derives from as far as it hands them on."""
    for cls in kind.__mro__:
        if "__init__" in vars(cls):
            parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
            yield from ((p.name, p.default) for p in parameters)
            if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
                return
    yield from ((name, inspect.Parameter.empty) for name in ("name", "dtype", "trainable"))
