"""Losses that layers add in their calls: no part of a prepared model, whose outputs they do not change."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras

log = logging.getLogger("qat")


@contextlib.contextmanager
def without_losses() -> Iterator[None]:
    """Leave out what calls add by ``add_loss`` here, and name each layer once, however often its call is recorded."""
    names: dict[str, None] = {}

    def left_out(layer: keras.layers.Layer, loss: Any) -> None:
        names[layer.name] = None

    original = keras.layers.Layer.add_loss
    keras.layers.Layer.add_loss = left_out
    try:
        yield
    finally:
        keras.layers.Layer.add_loss = original
    for name in names:
        log.warning("'%s' adds a loss in its call, which is no part of the prepared model: give it to the training's loss", name)
