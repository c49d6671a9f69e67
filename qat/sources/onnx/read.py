"""An ``.onnx`` becomes a module, which is held against ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import fx

from qat.errors import DataError, QatError
from qat.program.file_origin import FileOrigin
from qat.runtimes.trial import Run, run_in_runtime
from qat.sources.agreement import proved, random_inputs
from qat.system.silence import quiet

from .importing import batch_of, to_module
from .reading import FileGraph, read
from .table import OPERATORS

#: How many batches a module that takes any batch is proved with.
_SAMPLES = 3

log = logging.getLogger("qat")


def read_onnx(path: Path, example: Sequence[np.ndarray] | None = None) -> fx.GraphModule:
    """Return the model of a float ``.onnx``, in eval mode, for any batch wherever its operators allow that.

    Args:
        path: of the file.
        example: inputs that the file takes; random ones where they are left out.

    Raises:
        DataError: the file is missing or damaged, or its own runtime does not run it.
        CaptureError: an operator cannot be read, or the module computes something else than the file.
    """
    graph, origin = read(path, OPERATORS)
    candidates = [list(example)] if example is not None else list(random_inputs(origin.inputs))
    try:
        run = run_in_runtime(path, candidates)
    except DataError:
        _written(graph, origin, candidates[0], any_batch=False)  # what is wrong with an operator tells more
        raise
    batch, axes = batch_of(graph)
    if batch is not None and None not in axes:
        try:
            return _proved(path, graph, origin, run, any_batch=True)
        except QatError as error:
            log.info("%s keeps its batch of %s: %s", path, batch, error)
    return _proved(path, graph, origin, run, any_batch=False)


def _proved(path: Path, graph: FileGraph, origin: FileOrigin, run: Run, any_batch: bool) -> fx.GraphModule:
    module = _written(graph, origin, run.inputs, any_batch)
    return proved(path, module, run, _SAMPLES if any_batch else 1, batch_of(graph)[1])


def _written(graph: FileGraph, origin: FileOrigin, inputs: Sequence[np.ndarray], any_batch: bool) -> fx.GraphModule:
    with quiet():  # PyTorch logs what it is about to raise
        return to_module(graph, origin, [array.shape for array in inputs], any_batch)
