"""Arrays of samples as small pictures: images, maps of classes, boxes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

#: The longest side of a picture in pixels.
_SIDE = 192
#: Of the classes of a map, by number, and of boxes; further ones begin anew.
_CLASSES = np.array(
    [
        (38, 42, 48), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
        (160, 160, 160), (123, 79, 188), (139, 90, 43), (180, 220, 120),
    ],
    np.uint8,
)  # fmt: skip


def pixels_of(array: np.ndarray) -> np.ndarray | None:
    """Return an array of one sample as pixels ``[height, width, 3]``; None where it is no image.

    An image has one, three or four channels, first or last. Values in 0..1 or 0..255 are shown as they are, others stretched: a
    picture that was normalized by a mean and a deviation looks much as it was.
    """
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size or min(array.shape[:2] if array.shape[-1] in (1, 3, 4) else array.shape[1:]) < 4:
        return None
    if array.shape[-1] not in (1, 3, 4):
        if array.shape[0] not in (1, 3, 4):
            return None
        array = array.transpose(1, 2, 0)
    values = np.nan_to_num(array[..., :3].astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        values = 255 * values
    elif low < 0 or high > 255 or high < 32:
        values = 255 * (values - low) / max(high - low, 1e-12)
    pixels = values.round().astype(np.uint8)
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, -1)


def colours_of(classes: np.ndarray) -> np.ndarray:
    """Return a map of class numbers as pixels, a colour a class."""
    return np.asarray(_CLASSES[classes.astype(np.int64) % len(_CLASSES)])


def png_of(pixels: np.ndarray) -> bytes:
    """Return pixels as a small PNG: large ones are reduced, tiny ones enlarged with sharp edges."""
    from PIL import Image

    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest > _SIDE:
        image = image.resize([max(1, round(_SIDE * n / longest)) for n in image.size])
    elif longest <= _SIDE // 2:
        factor = _SIDE // longest
        image = image.resize([factor * n for n in image.size], Image.Resampling.NEAREST)
    if len(image.getcolors(256) or ()) == 0:  # a photograph: an eighth of the bytes, with hardly a difference at this size
        image = image.quantize(128)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def with_boxes(pixels: np.ndarray, boxes: Sequence[tuple[float, float, float, float]], classes: Sequence[int]) -> np.ndarray:
    """Return pixels with frames: boxes are (left, top, width, height), in pixels or in shares of the image."""
    from PIL import Image, ImageDraw

    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    shares = all(max(map(abs, box)) <= 2 for box in boxes)
    for (left, top, wide, high), number in zip(boxes, classes, strict=True):
        corners = (left, top, left + wide, top + high)
        scaled = [v * n for v, n in zip(corners, (width, height) * 2, strict=True)] if shares else list(corners)
        scaled[2:] = max(scaled[2], scaled[0]), max(scaled[3], scaled[1])
        colour = tuple(int(c) for c in _CLASSES[1 + number % (len(_CLASSES) - 1)])
        draw.rectangle(scaled, outline=colour, width=max(1, max(width, height) // 100))
    return np.asarray(image)
