"""Catalogues of public models to draw from: one module a package, which tells what it registers and how to build each small.

Each module has two functions. ``names()`` returns all that the package registers and the module's rule keeps.
``architecture(name, format)`` returns the row to measure; it raises :class:`Unsuitable` where the model cannot be built small.
Those of Keras have a third, ``constructor(name)``, which returns what builds a model from its arguments.
"""

from __future__ import annotations

import importlib
from types import ModuleType

#: The catalogues of each framework, in the order in which a draw takes turns.
TURNS: dict[str, tuple[str, ...]] = {
    "torch": ("transformers", "timm", "torchvision", "transformers", "segmentation", "pytorchcv", "ultralytics"),
    "keras": (
        "keras_hub", "zeromodels", "kimm", "keras_hub", "zeromodels", "k3im", "unet_collection", "zeromodels", "keras_hub",
        "kecam", "zeromodels", "medicai", "applications", "keras_hub", "zeromodels", "kyolo",
    ),
}  # fmt: skip
CUT = "the process ended"  # the error of a row whose process was cut, by a time limit or by a runtime
PARAMETERS = 30_000_000  # the most that a model may have: three of them, with gradients, and two runtimes share the machine


class Unsuitable(Exception):
    """A name of a catalogue that gives no model small enough, or none that runs in float: a draw does not count it."""


def catalogue(name: str) -> ModuleType:
    """Return the module of a catalogue."""
    return importlib.import_module(f"catalogues.{name}_nets")
