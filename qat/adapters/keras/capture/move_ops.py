"""The layers and operations that only move values: on integers they do what they do in float, with one scale."""

from __future__ import annotations

from .layer_calls import Call

#: Maxima and minima are taken of integers in the order of the real values.
MOVES = frozenset(
    {
        "Cropping1D", "Cropping2D", "Cropping3D", "UpSampling1D", "UpSampling2D", "UpSampling3D", "RepeatVector",
        "GlobalMaxPooling1D", "GlobalMaxPooling2D",
        "GetItem", "Slice", "Take", "Flip", "Roll", "ExpandDims", "Squeeze", "Max", "Min", "Amax", "Amin", "Repeat", "Tile",
        "Swapaxes", "Moveaxis", "Transpose", "Rot90", "CropImages", "StopGradient", "Copy",
    }
)  # fmt: skip


def is_move(kind: str, call: Call) -> bool:
    """Whether a call of a layer only moves values, from one tensor to one other."""
    layer = call.layer
    plain = getattr(layer, "interpolation", "nearest") == "nearest" and getattr(layer, "initial", None) is None
    lines = kind != "Take" or (layer.axis is not None and len(call.shape) == len(call.arguments.keras_tensors[0].shape))
    return kind in MOVES and len(call.inputs) == 1 and plain and lines
