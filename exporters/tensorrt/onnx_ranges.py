"""The scales of every tensor of a float ``.onnx``, measured in ONNX Runtime: TensorRT's calibration without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from qat.arithmetic.range_estimators import make_estimator
from qat.display.progress import tracked
from qat.errors import CalibrationError, DataError, OptionError
from qat.runtimes.onnxruntime import OnnxSession
from qat.system.samples import batches_of, check_finite, first_of_pair
from qat.typing import Estimator, Samples

from .calibration_cache import CalibrationCache

#: The integers of an activation: TensorRT maps the threshold to 127.
_QMAX = 127
_QUANTIZES = {"QuantizeLinear", "DequantizeLinear"}


def calibrate_onnx(
    path: str | Path, samples: Samples, estimator: Estimator = "entropy", version: str = "8601"
) -> CalibrationCache:
    """Return the scales of the float tensors of an ``.onnx``: its inputs, and the results of its operators.

    TensorRT's ONNX parser gives its tensors the names of the file's, by which it looks the scales up. Tensors that it makes
    while it fuses need none.

    Args:
        path: of a float ``.onnx``.
        samples: batches of inputs, or ``(inputs, labels)`` pairs; a few hundred samples.
        estimator: of the ranges; ``entropy`` is TensorRT's own method.
        version: of TensorRT, for the header of the cache: ``8601`` for 8.6.1.

    Raises:
        CalibrationError: a tensor holds NaN or infinite values, or the file holds Q/DQ already.
        DataError: there are no samples, or they do not fit the inputs.
        OptionError: the estimator is ``importance``, which needs gradients.
        QatError: the file is missing or is no ONNX model.

    Examples:
        >>> import numpy as np, torch
        >>> from qat.exporters.tensorrt import calibrate_onnx
        >>> x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
        >>> _ = torch.onnx.export(torch.nn.Linear(4, 3), (torch.zeros(8, 4),), "net.onnx", input_names=["x"], verbose=False)
        >>> round(calibrate_onnx("net.onnx", [x], "minmax").scales["x"] * 127, 6)
        1.0
    """
    if estimator == "importance":
        raise OptionError("estimator", "the estimator importance needs gradients, which an .onnx has not: take entropy or mse")
    OnnxSession(path)  # says in one sentence what is wrong with the file
    model = onnx.load(path)
    if any(node.op_type in _QUANTIZES for node in model.graph.node):
        raise CalibrationError(f"{path} holds Q/DQ, so that TensorRT reads its scales from it: build it without a cache")
    session = OnnxSession(_with_all_outputs(model))
    count = len(session.inputs)
    estimators = {info.name: make_estimator(estimator, -_QMAX, _QMAX, True) for info in (*session.inputs, *session.outputs)}
    index = -1
    for index, sample in enumerate(tracked(batches_of(samples, "calibration"), "calibration")):
        inputs = first_of_pair(sample, count)
        arrays = tuple(np.asarray(x) for x in (inputs if isinstance(inputs, (tuple, list)) else (inputs,)))
        for array in arrays:
            check_finite(array, f"calibration batch {index}")
        tensors = dict(zip((info.name for info in session.inputs), arrays, strict=False)) | session.run_named(*arrays)
        for name, values in tensors.items():
            if not np.isfinite(values).all():
                raise CalibrationError(f"{path}: '{name}' holds NaN or infinite values in batch {index}: check the weights")
            if values.size:
                estimators[name].update(values.astype(np.float32))
    if index < 0:
        raise DataError("calibration got no samples: pass at least one batch (a generator that was used up yields none)")
    return CalibrationCache({name: _scale(*found.range()) for name, found in estimators.items()}, version)


def _scale(low: float, high: float) -> float:
    """Return the scale of a range that holds 0. A tensor that was empty in every batch has none to speak of."""
    threshold = max(abs(low), abs(high))
    return float(np.float32(threshold / _QMAX)) if np.isfinite(threshold) else 0.0


def _with_all_outputs(model: onnx.ModelProto) -> bytes:
    """Return a model that returns every float tensor that its operators write."""
    inferred = shape_inference.infer_shapes(model)
    floats = {
        value.name
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    written = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in dict.fromkeys(written) if name in floats
    )
    return model.SerializeToString()
