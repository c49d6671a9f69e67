"""A float ``.tflite`` becomes a PyTorch module that takes and returns what the file does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import fx

from qat.errors import CaptureError, nearest, reason_of
from qat.exporters.tflite.metadata import attached
from qat.program.file_origin import FileOrigin, FileTensor
from qat.sources.module_writer import ModuleWriter

from .flatbuffer import Operator, Subgraph, read_subgraph
from .importer import Importer, Result
from .laid import Laid
from .sizes import FOLDS, shape_of
from .sparsity import MOST_ELEMENTS
from .table import ROWS

#: Written by the converter around weights that it stores in another form; the constants are expanded as they are read.
_EXPANDED = ("DENSIFY", "DEQUANTIZE")


def read_tflite(path: Path, signature: str = "") -> fx.GraphModule:
    """Return the module of a float ``.tflite``, in eval mode.

    The module takes and returns the tensors of the file, images with channels last, in batches of any size.

    Args:
        path: of the file. Its weights are float32, or float16 behind DEQUANTIZE, dense or sparse.
        signature: the key of the signature to read; empty: the first one, or the first subgraph.

    Raises:
        CaptureError: the file is quantized, or an operator has no row; the message names the operator and its place.
        DataError: the file is missing or damaged, or has no such signature.
    """
    graph = readable(path, signature)
    return to_module(path, graph, origin_in(path, graph))


def readable(path: Path, signature: str = "") -> Subgraph:
    """Return the subgraph of a file, whose operators all have a row; as :func:`read_tflite`."""
    graph = read_subgraph(path, signature)
    _refuse_quantized(path, graph)
    _refuse_unknown(path, graph.operators)
    return graph


def to_module(path: Path, graph: Subgraph, origin: FileOrigin, sizes: Sequence[Sequence[int]] = ()) -> fx.GraphModule:
    """Return the module of a subgraph.

    Args:
        path: of its file.
        graph: from :func:`readable`.
        origin: from :func:`origin_in`.
        sizes: of the inputs, an example that the file's runtime takes; those of free axes may be too small without.

    Raises:
        CaptureError: an operator is written in a way that has no form here.
    """
    writer = ModuleWriter()
    importer = Importer(graph, writer)
    importer.take_inputs(sizes)
    for op in graph.operators:
        with writer.operator(op.scope):
            try:
                importer.take(op, _written(importer, op))
            except CaptureError as error:
                raise CaptureError(f"{path}: {error}") from error
            except Exception as error:  # PyTorch and NumPy raise what they like where shapes do not fit
                raise CaptureError(f"{path}: {op} cannot be read: {reason_of(error)}") from error
    return writer.finish(importer.outputs(), origin)


def _written(b: Importer, op: Operator) -> Result:
    if op.code in _EXPANDED:
        data = b.known(op, 0)
        return data.astype(np.float32) if op.code == "DEQUANTIZE" else data
    if op.code == "SHAPE":
        return shape_of(b, op)
    if not op.inputs or not b.all_known(op):
        return ROWS[op.code](b, op)
    if any(b.known(op, i).dtype == object for i, n in enumerate(op.inputs) if n >= 0):
        if op.code in FOLDS:
            return FOLDS[op.code](b, op)
        return ROWS[op.code](b, op)
    return _constant(b, op)


def _constant(b: Importer, op: Operator) -> Result:
    """Compute an operator whose inputs are all constant, by its own row."""
    writer = ModuleWriter()
    alone = Importer(b.graph, writer)
    for number in op.inputs:
        if number >= 0:
            alone.hold(number, b.values_of(number))
    result = ROWS[op.code](alone, op)
    made = result if isinstance(result, list) else [result]
    values = [alone.ordered(laid) for laid in made if isinstance(laid, Laid)]
    if sum(value.fake.numel() for value in values if isinstance(value.fake, torch.Tensor)) > MOST_ELEMENTS:
        raise CaptureError(f"{op} makes a constant of more than {MOST_ELEMENTS} elements")
    with torch.no_grad():
        found = writer.finish(values)()
    return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]


def origin_in(path: Path, graph: Subgraph) -> FileOrigin:
    """Return the names, types and sizes of the inputs and outputs of a subgraph, and the metadata of its file."""

    def described(indices: Iterable[int], names: Iterable[str]) -> tuple[FileTensor, ...]:
        tensors = (graph.tensors[i] for i in indices)
        return tuple(
            FileTensor(name, tuple("" if n is None else n for n in t.shape), t.dtype.lower())
            for t, name in zip(tensors, names, strict=True)
        )

    metadata = attached(path.read_bytes())
    return FileOrigin(
        ".tflite",
        described(graph.inputs, graph.input_names),
        described(graph.outputs, graph.output_names),
        signature=graph.signature,
        metadata_table=metadata.table if metadata is not None else b"",
        associated_files=metadata.files if metadata is not None else {},
    )


def _refuse_quantized(path: Path, graph: Subgraph) -> None:
    for op in graph.operators:
        for number in (*op.inputs, *op.outputs):
            if number >= 0 and graph.tensors[number].quantized:
                tensor = graph.tensors[number]
                raise CaptureError(
                    f"{path} is quantized already: tensor '{tensor.name}' of {op} is {tensor.dtype.lower()}; "
                    "load the float file that it was made from"
                )


def _refuse_unknown(path: Path, operators: Iterable[Operator]) -> None:
    known = {*ROWS, *_EXPANDED, "SHAPE"}
    for op in operators:
        if op.code in known:
            continue
        if op.is_custom:
            raise CaptureError(
                f"{path}: custom operator {op.code}, which writes '{op.scope}', cannot be read: TFLite has no such operator, "
                "only the application that the file was made for; cut the model before it, or load the model in the framework "
                "that the file was made by"
            )
        raise CaptureError(
            f"{path}: operator {op.code}{nearest(op.code, known)}, which writes '{op.scope}', cannot be read: cut the model "
            "before it, or load the model in the framework that the file was made by"
        )
