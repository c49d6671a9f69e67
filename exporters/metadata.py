"""What an artifact says of itself to the libraries that feed it: its labels, how pixels are normalized, a description."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.errors import ConfigError, ExportError
from qat.program.program import Program, Value

log = logging.getLogger("qat")

#: How much wider or narrower normalized pixels may be than the calibrated range before the two are of different units.
_UNITS = 16.0


@dataclass(frozen=True)
class Metadata:
    """What an artifact says of itself: see :func:`qat.export`.

    Attributes:
        name: of the model.
        description: what the model does.
        labels: the classes' names, in the order of the output's last axis.
        mean, std: the model takes ``(pixel - mean) / std`` of pixels from 0 to 255; one number, or one for each channel. A
            model of pixels divided by 255 has mean 0 and std 255.
        version: of the model.
        author: of the model.
        license: that the model comes under.

    Examples:
        >>> import qat
        >>> qat.Metadata(labels=["cat", "dog"], mean=127.5, std=127.5).normalization
        ((127.5,), (127.5,))
    """

    name: str = ""
    description: str = ""
    labels: Sequence[str] = ()
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    version: str = ""
    author: str = ""
    license: str = ""

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """``mean`` and ``std`` as tuples, or None."""
        if self.mean is None or self.std is None:
            return None
        mean, std = (tuple(float(value) for value in np.ravel(np.asarray(x))) for x in (self.mean, self.std))
        return mean, std


def check_content(metadata: Metadata) -> None:
    """Raise ConfigError where a label is no line of text, ``mean`` or ``std`` lacks the other, or a ``std`` is not positive."""
    if isinstance(metadata.labels, str):
        raise ConfigError(f"metadata: labels are a list of names, not one text ({metadata.labels[:40]!r})")
    for index, label in enumerate(metadata.labels):
        if not isinstance(label, str) or not label.strip() or len(label.splitlines()) > 1:
            raise ConfigError(f"metadata: label {index} is {label!r}; a label is one line of text")
    if (metadata.mean is None) != (metadata.std is None):
        raise ConfigError("metadata: mean and std belong together: give both")
    if metadata.normalization is not None:
        mean, std = metadata.normalization
        if not all(np.isfinite(mean)) or not all(0 < value < np.inf for value in std):
            raise ConfigError(f"metadata: a mean is a finite number and a std a positive one, not {mean} and {std}")


def channels_of(shape: Sequence[int | None]) -> int | None:
    """Return the channels of an image that lies as NHWC, 1 or 3; None of anything else."""
    return shape[-1] if len(shape) == 4 and shape[-1] in (1, 3) else None


def check(metadata: Metadata, program: Program, io_dtype: str) -> None:
    """Refuse metadata that do not fit a program, and say where a library would feed it wrongly.

    Raises:
        ConfigError: as :func:`check_content` says.
        ExportError: there are more or fewer labels than values, or than channels for ``mean`` and ``std``; or the pixels that
            these normalize lie on another scale than those that calibrated the model.
    """
    check_content(metadata)
    sizes = [program.values[name].shape[-1] if program.values[name].shape else 1 for name in program.outputs]
    if metadata.labels and len(metadata.labels) not in sizes:
        raise ExportError(
            f"metadata: {len(metadata.labels)} labels, and the outputs have {', '.join(map(str, sizes))} values: give one label "
            "for each value"
        )
    if metadata.normalization is None:
        return
    for name in program.inputs:
        value = program.values[name]
        if len(value.shape) == 4:
            _check_channels(value, metadata.normalization)
            encoding = _encoding_of_input(program, name)
            if encoding is not None:
                _check_pixels(name, encoding, metadata.normalization, io_dtype)


def _check_channels(value: Value, normalization: tuple[tuple[float, ...], ...]) -> None:
    channels = {value.shape[1], value.shape[-1]}
    for what, numbers in zip(("mean", "std"), normalization, strict=True):
        if len(numbers) > 1 and len(numbers) not in channels:
            raise ExportError(
                f"metadata: {what} has {len(numbers)} numbers, and the input '{value.name}' of shape {value.shape} has another "
                "number of channels: give one number, or one for each channel"
            )


def _encoding_of_input(program: Program, name: str) -> Encoding | None:
    """Return the encoding that an input is quantized with; None of one that an operator reads in float."""
    written = (i.outputs[0] for i in program.instructions if i.kind == "quantize" and i.inputs == (name,))
    return next((program.values[output].encoding for output in written), None)


def _check_pixels(name: str, encoding: Encoding, normalization: tuple[tuple[float, ...], ...], io_dtype: str) -> None:
    mean, std = (np.asarray(numbers) for numbers in normalization)
    low, high = float(((0 - mean) / std).min()), float(((255 - mean) / std).max())
    scale = float(np.max(encoding.scale))
    lowest, highest = ((limit - encoding.zero_point) * scale for limit in (encoding.qmin, encoding.qmax))
    ratio = (high - low) / (highest - lowest)
    if not 1 / _UNITS < ratio < _UNITS:
        raise ExportError(
            f"metadata: mean and std make {low:.3g} to {high:.3g} of pixels from 0 to 255, and '{name}' was calibrated on "
            f"{lowest:.3g} to {highest:.3g}: give both for pixels from 0 to 255 (255 times those for pixels from 0 to 1)"
        )
    black, white = (x / scale + encoding.zero_point - encoding.qmin for x in (low, high))
    if io_dtype == "uint8" and max(abs(black), abs(white - 255)) > 2:
        log.warning(
            "the uint8 input '%s' holds %.0f for a black pixel and %.0f for a white one: a library that hands pixels over as "
            "they are (MediaPipe) would feed it wrongly; io_dtype='float32' lets the library normalize", name, black, white,
        )  # fmt: skip
