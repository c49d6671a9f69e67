"""The layers that keep Keras' implementation, and that a format cannot hold."""

from __future__ import annotations

from collections.abc import Mapping, Set

from qat.planning.held_in_tflite import LOOPS

from .trace import Traced


def unheld(traced: Traced, names: Set[str], suffix: str) -> Mapping[str, str]:
    """Return what an artifact cannot hold of the layers that keep Keras' implementation, by the names of their operators.

    Args:
        traced: the captured model.
        names: of those operators.
        suffix: of the artifact.
    """
    if suffix != ".tflite":
        return {}
    layers = {name: layer for name, layer in traced.layers.items() if name in names and type(layer).__name__ in LOOPS}
    return {
        name: f"a .tflite cannot hold the loop of {type(layer).__name__}: build recurrent layers with unroll=True"
        for name, layer in layers.items()
        if not layer.unroll
    }
