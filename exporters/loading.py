"""A file is loaded and run once before it is written: a file that its runtime does not take is never left as if it were good."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qat.arithmetic.grid import UNIT_LIMIT
from qat.errors import DataError, ExportError, QatError, reason_of
from qat.graph.graph import EXAMPLE_BATCH
from qat.program.program import Program
from qat.runtimes import TFLITE, Format, Session
from qat.runtimes.trial import Crashed, run_in_runtime, zeros_of
from qat.system.machine import usable_threads

from .divergence import ADVICE, scale_ratios

#: Scales that differ by less than this factor end no process: TFLite's ADD aborts from 2^19 on (``TFLITE_CHECK`` in
#: https://github.com/tensorflow/tensorflow, tensorflow/lite/kernels/internal/quantization_util.cc).
_HARMLESS = 2.0**16
#: Sizes of the axes that are free besides the batch, one after the other: a deep network takes no small ones, a short table no
#: large ones.
_FREE_SIZES = (EXAMPLE_BATCH, 64)
#: What scales far apart mean, and what to do.
_FAR_APART = (
    f"either the weights have diverged ({ADVICE}), or the model itself adds numbers so far apart, such as a mask's: keep these "
    "operators float by a rule of the recipe"
)
#: Where LiteRT's complaint has the number of an operator.
_NODE = re.compile(r"node #(\d+)|Node number (\d+) \((?!TfLite)")


def loaded(raw: bytes, path: Path, file_format: Format, program: Program | None) -> Session:
    """Return the session of a file that its runtime has run on zeros.

    Args:
        raw: the file's bytes.
        path: where the file will be, for messages.
        file_format: of the file.
        program: that the file was written from; None of another converter's file.

    Raises:
        ExportError: the runtime does not take the file.
    """
    tries = [None] if program is None else _zeros(program)
    kernels = "" if program is None else program.kernels
    if file_format is TFLITE and (program is None or _may_abort(program)):
        _survive(raw, path, program, tries[0])
    try:
        session = file_format.open(raw, threads=usable_threads(), kernels=kernels)
        _run(session, [zeros or zeros_of(session) for zeros in tries])
    except QatError as error:
        reason = reason_of(error.__cause__ or error)
        place = _place(reason, raw, program) if file_format is TFLITE else ""
        raise ExportError(
            f"{path}: the runtime does not take the file, so that nothing was written ({reason}){place}: keep that operator "
            "float by a rule of the recipe, and report the model"
        ) from error
    return session


def _zeros(program: Program) -> list[list[np.ndarray] | None]:
    """Return inputs of zeros, once, or for each of the sizes that a free axis may have."""
    values = [program.values[name] for name in program.inputs]
    made: list[list[np.ndarray] | None] = []
    for size in _FREE_SIZES if any(not v.example and None in v.shape[1:] for v in values) else _FREE_SIZES[:1]:
        shapes = [(*v.example_shape[:1], *(size if n is None else n for n in v.shape[1:])) for v in values]
        made.append([np.zeros(v.example or shape, np.float32) for v, shape in zip(values, shapes, strict=True)])
    return made


def _run(session: Session, tries: Sequence[Sequence[np.ndarray]]) -> None:
    """Run a file on the first inputs that it takes. Raises QatError of the last ones where it takes none."""
    for inputs in tries[:-1]:
        with contextlib.suppress(QatError):
            session.run(*inputs)
            return
    session.run(*tries[-1])


def _may_abort(program: Program) -> bool:
    """Whether LiteRT may end the process: operators of another converter, and scales far apart, are not known to be harmless."""
    return program.block is not None or any(not 1 / _HARMLESS < ratio < _HARMLESS for _, ratio in scale_ratios(program))


def _survive(raw: bytes, path: Path, program: Program | None, inputs: Sequence[np.ndarray] | None) -> None:
    """Run a file in a process of its own. A runtime that says what it lacks says so to this process too."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(raw)
        try:
            run_in_runtime(copy, [] if inputs is None else [inputs], "" if program is None else program.kernels)
        except Crashed as crash:
            found = [] if program is None else list(scale_ratios(program))
            beyond = [(step, ratio) for step, ratio in found if not 1 / UNIT_LIMIT < ratio < UNIT_LIMIT]
            far = [f"'{step.layer}' ({step.kind}), by {ratio:.3g}" for step, ratio in beyond]
            cause = f"scales are far apart in {', '.join(far[:3])}: {_FAR_APART}" if far else "report it"
            raise ExportError(
                f"{path}: LiteRT ends the process that runs the file ({crash.words}), so that nothing was written; {cause}"
            ) from crash
        except DataError:
            return


def _place(reason: str, raw: bytes, program: Program | None) -> str:
    """Return the layer whose operator LiteRT complains of by its number, in words; nothing where it names no operator."""
    found = _NODE.search(reason)
    if found is None:
        return ""
    from .tflite.reader import tensor_written_by

    name = tensor_written_by(raw, int(found[1] or found[2]))
    steps = () if program is None else program.instructions
    layer = next((step.layer for step in steps if name in step.outputs), name)
    return f" in operator '{layer}'"
