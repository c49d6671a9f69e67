"""The layers that keep Keras' implementation, and that a format cannot hold."""

from __future__ import annotations

from collections.abc import Mapping, Set

from qat.graph.graph import Op

from .calls import keeps_state
from .control_flow import runs_graphs
from .opening import DRAWS
from .trace import Traced
from .unrolling import has_form, recurrent

#: Layers and operations of which no format has a form: of complex numbers, linear algebra, projections, texts and hash tables.
_NO_FORM = {
    "FFT", "FFT2", "IFFT2", "IRFFT", "ISTFT", "ViewAsComplex", "Cholesky", "CholeskyInverse", "Det", "Eig", "Eigh", "Inv",
    "Logdet", "LuFactor", "Lstsq", "Pinv", "Qr", "Solve", "SolveTriangular", "SVD", "TextVectorization", "StringLookup",
    "IntegerLookup", "Hashing", "HashedCrossing", "Erfinv", "Cross", "I0",
    "AffineTransform", "PerspectiveTransform", "AssociativeScan",
}  # fmt: skip
#: Those of which one format has a form, by the suffix of the other.
_NOT_IN = {
    ".onnx": {"RFFT", "STFT", "STFTSpectrogram", "MelSpectrogram"},  # the two with forms: of signals of free lengths
    ".tflite": {
        "Tan", "Arcsin", "Arccos", "Arctan", "Arcsinh", "Arccosh", "Arctanh", "Erfc", "Cumprod", "Median", "Quantile", "Nonzero",
        "Signbit", "Trace", "Diagonal", "Map", "Scan",
    },
}  # fmt: skip
#: The functions with a kind of their own that a format lacks in float, by its suffix.
_FUNCTIONS_NOT_IN = {".tflite": {"erf"}}


def unheld(traced: Traced, names: Set[str], suffix: str) -> Mapping[str, str]:
    """Return what an artifact cannot hold of the layers that keep Keras' implementation, by the names of their operators.

    Args:
        traced: the captured model.
        names: of those operators.
        suffix: of the artifact.
    """
    reasons = {op.name: _reason(traced, op, suffix) for op in traced.graph.ops if op.name in names}
    return {name: f"a {suffix} cannot hold {reason}" for name, reason in reasons.items() if reason}


def _reason(traced: Traced, op: Op, suffix: str) -> str:
    layer = traced.layers.get(op.name)
    if layer is None:
        return op.kind.title() if op.kind in _FUNCTIONS_NOT_IN.get(suffix, set()) else ""
    kind, of_keras = type(layer).__name__, type(layer).__module__.startswith("keras.")
    if of_keras and kind in _NO_FORM | _NOT_IN.get(suffix, set()):
        return kind
    if op.attrs.get("reason", "").endswith(DRAWS):
        return f"{kind}, which {DRAWS}: let its call return the expected value there"
    if keeps_state(layer):
        return f"the state that {kind} keeps from call to call: give it stateful=False, or return_state=True and initial_state"
    free = bool(op.inputs) and None in traced.graph.tensors[op.inputs[0]].shape[1:2]
    loops = [each for each in recurrent(layer) if not each.unroll]
    if loops and free and not has_form(layer, len(op.inputs) > 1, suffix):
        return f"the loop of {kind} over a free number of steps: give keras.Input a fixed length"
    specs = [traced.graph.tensors[name] for name in op.inputs]
    if suffix == ".tflite" and not of_keras and runs_graphs(layer, traced.arguments[op.name], specs):
        return f"the loop or the branch of {kind}: write its steps out in Python, and choose by keras.ops.where"
    return ""
