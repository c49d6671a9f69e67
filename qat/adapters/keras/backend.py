"""The backend that Keras runs on. The nodes' functions and gradients are TensorFlow's."""

from __future__ import annotations

import keras

from qat.errors import ConfigError


def require_tensorflow() -> None:
    """Raise ConfigError where Keras runs on another backend than TensorFlow's."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ConfigError(
            f"qat needs TensorFlow's backend for a Keras model, and Keras runs on '{backend}': set KERAS_BACKEND=tensorflow "
            "before keras is imported (a .keras file loads there unchanged)"
        )
