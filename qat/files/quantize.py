"""The call: a float file or factory in, a quantized file out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from qat.errors import QatError, reason_of
from qat.exporters import encodings_path
from qat.planning.recipe import Recipe, Rule
from qat.planning.targets import load_target
from qat.system.atomic_files import make_folder, refuse_existing
from qat.typing import Estimator, FileData, IoDtype

from . import bundle
from .inputs import BATCH
from .opened import SUFFIXES, open_float
from .own import quantized as by_qat
from .request import DEFAULT_RECIPE, Outputs, Request, Start, Tool, ending_of
from .result import Quantization, QuantizedFile

log = logging.getLogger("qat")


def quantize(
    path: str | Path,
    data: FileData | None = None,
    *,
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    exclude: Sequence[str] = (),
    rules: Sequence[str | Rule] = (),
    train: str | int | None = None,
    start: Start | None = None,
    tool: Tool = "qat",
    io_dtype: IoDtype = "float32",
    out: str | Path | None = None,
    target: str | None = None,
    estimator: Estimator | None = None,
    scale: str | None = None,
    size: tuple[int, int] | None = None,
    samples: int = 512,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    outputs: Outputs = "auto",
    max_error: float | None = None,
    same_answers: float | None = None,
) -> QuantizedFile:
    """Quantize a float file, and train it to its own float outputs where that is asked for.

    The result has the format of the file; of a ``.keras`` file it is a ``.tflite``. Its name says how it was quantized:
    ``net_int8.tflite``, ``net_int4.onnx``, ``net_fp16.tflite``, ``net_dynamic.onnx``.

    Args:
        path: a float ``.onnx``, ``.tflite`` or ``.keras``, a MediaPipe bundle (``.task``), whose models are quantized each by its
            own recipe (:func:`qat.files.bundle.quantized`), or a factory ``package.module:function``.
        data: inputs like those of the application: a folder of images, the path of an ``.npz`` (arrays by the inputs' names) or
            ``.npy``, ``package.module:function`` (arrays, or batches of them), arrays, or ``"random"``, which calibrates with a
            warning. Recipes without static rules need data for the error against float alone. Of a bundle also a dict of these
            by model.
        recipe: a built-in name or short form (``int8``, ``fp16``, ``dynamic``), the path of a YAML file, or a Recipe; of another
            tool its own name.
        exclude: regular expressions; operators whose scope matches one stay float.
        rules: further rules, the last match wins: a :class:`~qat.planning.recipe.Rule`, or ``"scope=^head,bits=4"``.
        train: ``"10m"``, ``"90s"``, a number of steps, or None for none: training without labels, see docs/training.md.
        start: how calibration is followed, as a start of training or in its place: ``"adaround"`` (:func:`qat.adaround`), or
            ``"brecq"`` (:func:`qat.reconstruct`); None: by nothing.
        tool: ``qat``, or another one for comparison: ``aeq`` (AI Edge Quantizer), ``onnxruntime``, ``tflite`` (TensorFlow's).
        io_dtype: the type of a ``.tflite``'s inputs and outputs.
        out: the folder of the result; None is that of the file, for a factory the working folder.
        target: the runtime; None: LiteRT for a ``.tflite``, ONNX Runtime for an ``.onnx``.
        estimator: how calibration finds ranges; None tries ``minmax``, ``percentile``, ``mse`` and ``importance``, and takes
            the one whose outputs are nearest to float's, or those that the recipe names.
        scale: the range of images' values: ``0..1``, ``-1..1``, ``0..255``, ``imagenet``, or ``"127.5,127.5"``, mean and standard
            deviation; None takes what the file's metadata say.
        size: height and width of images where the file leaves them free.
        samples: the most samples that are read.
        seed: of the draw of the samples, and of training.
        overwrite: whether an existing result may be replaced.
        progress: whether to show training's progress on a terminal.
        outputs: ``auto`` lets an output that is neither scores nor shares leave as float values, by a dynamic kernel on integer
            weights, where the rounding to its own 256 values makes a quarter of its error or more, and that lowers the error;
            ``int8`` never does, nor does an ``io_dtype`` other than float32. ``float`` lets all leave so that a kernel can:
            those of a detector, whose scores and boxes reach far where nothing is found.
        max_error: the most that the calibrated outputs may differ from float's, as ``error_percent`` of the result, on samples
            that did not calibrate: the layers that lose most stay in 16 bits, where the target's kernels allow that, else in
            float, as few as are enough. Training starts from there. None: any error.
        same_answers: the same for outputs that are classes: the least share of answers that float gives, too, in percent, on up
            to 1024 such samples. 100 changes none of these. None: any share.

    Returns:
        The file, its size, and its distance from the float file on samples held out.

    Raises:
        ConfigError: an option is wrong, or the recipe would quantize nothing.
        DataError: the file or the data cannot be read, or do not fit each other; or there are no data.
        ExportError: the result exists, or cannot be written.

    Examples:
        >>> import keras, numpy as np, qat
        >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
        >>> net.save("net.keras")
        >>> made = qat.quantize("net.keras", np.random.default_rng(0).normal(size=(128, 4)))
        >>> made.path.name, made.exact
        ('net_int8.tflite', 1.0)
    """
    request = Request(
        recipe, exclude, rules, train, start, tool, io_dtype, None if out is None else Path(out), target, estimator, scale,
        size, samples, seed, overwrite, progress, outputs, max_error, same_answers,
    )  # fmt: skip
    return run(path, data, request)


def run(source: str | Path, data: FileData | None, request: Request) -> QuantizedFile:
    """Quantize one file as a request says."""
    if Path(source).suffix == bundle.SUFFIX:
        return bundle.quantized(Path(source), data, request, run)
    if request.tool != "qat":
        from .other_tools import quantized

        return quantized(source, data, request)
    ending = ending_of(request.full_recipe())
    if Path(source).suffix in SUFFIXES and Path(source).is_file():  # before the work
        _named(Path(source), SUFFIXES[Path(source).suffix], ending, request)
    opened = open_float(source, data, request, BATCH)
    where = _named(opened.path or Path(opened.name), opened.suffix, ending, request)
    return by_qat(opened, request, where, str(source))


def run_all(sources: Sequence[str], data: FileData | None, request: Request) -> Quantization:
    """Quantize files one after the other; one that fails does not stop the others."""
    made = []
    for source in sources:
        try:
            made.append(run(source, data, request))
        except Exception as error:  # whatever a damaged file, or the user's model, raises
            said = str(error) if isinstance(error, QatError) else f"{type(error).__name__}: {reason_of(error)}"
            if getattr(error, "exit_code", 2) != 2:  # the user stops the run
                raise
            log.debug("%s", source, exc_info=True)
            made.append(QuantizedFile(source=source, path=None, tool=request.tool, recipe=str(request.recipe), failed=said))
    return Quantization(tuple(made))


def _named(path: Path, suffix: str, ending: str, request: Request) -> Path:
    """Return where the result goes. Raises ExportError where it exists and may not be replaced, or cannot be written."""
    if request.target is not None:
        suffix = load_target(request.target).suffix
    where = (path.parent if request.out is None else request.out) / f"{path.stem}_{ending}{suffix}"
    if not request.overwrite:
        refuse_existing(where, encodings_path(where))
    make_folder(where.parent)
    return where
