"""Loading a float file: the door of this room."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qat.errors import DataError, MissingDependencyError
from qat.program.file_origin import ORIGIN, FileOrigin, FileTensor
from qat.runtimes import FORMATS
from qat.system.given_files import check_file
from qat.system.sample_axes import sample_axes
from qat.typing import Inputs

if TYPE_CHECKING:
    import numpy as np
    from torch import fx

log = logging.getLogger("qat")


def load(path: str | Path, example_inputs: Inputs | None = None) -> fx.GraphModule:
    """Return the float model of a file, for :func:`qat.prepare`.

    The model is a PyTorch module, whatever wrote the file. Its parameters have the names of the file's tensors, and its scopes,
    which recipes match, those of the file's operators. It takes any batch wherever the file's operators allow that.

    Loading proves itself: the outputs are held against those of the file's own runtime. The largest difference, as a share of an
    output's spread, is ``model.meta["qat_agreement"].worst``; more than 1 % is an error.

    Args:
        path: a float ``.onnx``, of opset 7 to 24, or a float ``.tflite``, whose weights may be of float16 or sparse.
        example_inputs: a batch of inputs, or a tuple of batches, in the order of the file. Without them the inputs are random, of
            sizes that the file takes.

    Returns:
        The model, in eval mode. ``model.meta["qat_origin"]`` holds the file's names, sizes and metadata.

    Raises:
        DataError: the file is missing, damaged or of an unknown kind.
        CaptureError: an operator of the file has no form in PyTorch, or shows that the file is quantized; the message
            names it.
        MissingDependencyError: PyTorch or the file's runtime is not installed.

    Examples:
        >>> import qat, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> artifact = torch.onnx.export(net, (torch.zeros(2, 4),), "net.onnx", dynamo=False)
        >>> model = qat.load("net.onnx")
        >>> sorted(name for name, _ in model.named_parameters())
        ['0.bias', '0.weight', '2.bias', '2.weight']
        >>> model.meta["qat_agreement"].worst < 1e-5
        True
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise DataError(f"{path} is no file that can be loaded: give the path of a float {' or '.join(FORMATS)}")
    check_file(path)
    try:
        from qat.adapters.torch import inputs_of

        example = None
        if example_inputs is not None:
            example = [
                x.numpy() for x in inputs_of((example_inputs if isinstance(example_inputs, tuple) else (example_inputs,),))
            ]
        if path.suffix == ".tflite":
            return _of_tflite(path, example)
        from .onnx.read import read_onnx

        return read_onnx(path, example)
    except ImportError as error:
        extra = FORMATS[path.suffix].extra
        raise MissingDependencyError(f"loading {path} needs {error.name}: pip install 'qat-toolkit[torch,{extra}]'") from error


def _of_tflite(path: Path, example: Sequence[np.ndarray] | None) -> fx.GraphModule:
    from qat.runtimes.trial import run_in_runtime

    from .agreement import proved, random_inputs
    from .tflite.read import origin_in, readable, to_module

    graph = readable(path)
    origin = origin_in(path, graph)
    tried = [_of_the_files_batch(example, origin.inputs)] if example else list(random_inputs(origin.inputs))
    try:
        run = run_in_runtime(path, tried)
    except DataError as error:
        module = to_module(path, graph, origin, [x.shape for x in tried[0]])  # what is wrong with an operator tells more
        if "custom op" not in str(error):
            raise
        log.warning("%s could not be held against its runtime, which lacks one of its operators: %s", path, error)
        return module
    return proved(path, to_module(path, graph, origin, [x.shape for x in run.inputs]), run)


def _of_the_files_batch(example: Sequence[np.ndarray], inputs: Sequence[FileTensor]) -> Sequence[np.ndarray]:
    """Return the first samples of an example: a file that resizes to a batch may still merge it with other axes, in silence."""
    own, axes = sample_axes([tensor.shape for tensor in inputs])
    if not isinstance(own, int) or any(axis != 0 for axis in axes):
        return example
    return [x[:own] for x in example] if all(x.ndim and len(x) % own == 0 for x in example) else example


def example_of(model: fx.GraphModule) -> Inputs:
    """Return inputs of zeros for a loaded model, a batch of two where the batch is free.

    Raises:
        DataError: the file leaves another size free.
    """
    import numpy as np

    origin: FileOrigin = model.meta[ORIGIN]
    _, axes = sample_axes([t.shape for t in origin.inputs])
    shapes = [
        tuple(2 if axis == samples and not isinstance(n, int) else n for axis, n in enumerate(t.shape))
        for t, samples in zip(origin.inputs, axes, strict=True)
    ]
    for tensor, shape in zip(origin.inputs, shapes, strict=True):
        if not all(isinstance(n, int) for n in shape):
            sizes = ", ".join(str(n or "?") for n in tensor.shape)
            raise DataError(
                f"input '{tensor.name}' of the file has the sizes [{sizes}]: pass example_inputs, a batch of the size you need"
            )
    types = [np.float32 if t.dtype.startswith(("float", "bfloat")) else np.dtype(t.dtype) for t in origin.inputs]
    return tuple(np.zeros(shape, dtype) for shape, dtype in zip(shapes, types, strict=True))
