"""The record of what a tool makes of a float model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qat.runtimes.model_file import ModelFile


@dataclass(frozen=True, kw_only=True)
class Baseline(ModelFile):
    """The file that a post-training tool makes of a float model, named ``onnxruntime_static_minmax``, say.

    Where the tool failed, ``path`` is None and ``error`` says why. :class:`qat.runtimes.model_file.ModelFile` has the fields.
    """


#: ``(name, tool, recipe, make)``; ``make()`` returns the file's bytes.
Maker = tuple[str, str, str, Callable[[], bytes]]
