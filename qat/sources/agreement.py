"""Whether a module computes what its file does: the outputs of both, for the same random inputs, each in its own runtime."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qat.errors import CaptureError
from qat.program.file_origin import ORIGIN, FileTensor
from qat.runtimes.trial import Run
from qat.system.sample_axes import Axes, sample_axes

if TYPE_CHECKING:
    from torch import fx

log = logging.getLogger("qat")

#: Where a module that was read from a file keeps its :class:`Agreement`, among the ``meta`` of an ``fx.GraphModule``.
AGREEMENT = "qat_agreement"
#: The largest difference, of an output's spread, that two ways to round can make; a row that is wrong makes more.
LIMIT = 0.01
#: The spread of an output that hardly varies, such as a sigmoid near 0: runtimes' approximations are far apart in its units.
_LEAST_SPREAD = 1e-4
#: Of fewer values the spread says little.
_FEW = 16
#: Sizes to try for the free axes of images (height, width) and, the second of each, of sequences; the first batch is of two.
_SIZES = (
    (64, 64), (224, 224), (48, 320), (32, 320), (320, 320), (640, 640), (128, 128), (256, 256), (512, 512), (32, 32), (16, 16),
    (80, 80), (96, 96), (299, 299), (8, 8), (4, 4), (1, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How far a module's outputs are from its file's, for random inputs.

    Attributes:
        differences: the largest difference of each output, by the file's name, as a share of that output's spread (its largest
            value less its smallest one; of a few values at least the size of the largest); of an output of integers the share
            of values that differ.
    """

    differences: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest of the differences."""
        return max(self.differences.values(), default=0.0)


def random_inputs(tensors: Sequence[FileTensor], seed: int = 0) -> Iterator[list[np.ndarray]]:
    """Return inputs of the file's types, for one choice of the free axes' sizes after the other; one where no axis is free.

    Real numbers are of a normal distribution, integers 0 and 1, which all embeddings and masks take.
    """
    tried: set[tuple[tuple[int, ...], ...]] = set()
    batch, axes = sample_axes([tensor.shape for tensor in tensors])
    count = 1 if batch == 1 else 2
    for sizes in _SIZES:
        shapes = tuple(_shape(tensor, sizes, axis, count) for tensor, axis in zip(tensors, axes, strict=True))
        if shapes not in tried:
            tried.add(shapes)
            rng = np.random.default_rng(seed)
            yield [_random(rng, shape, np.dtype(tensor.dtype)) for shape, tensor in zip(shapes, tensors, strict=True)]


def _shape(tensor: FileTensor, sizes: tuple[int, int], samples: int | None, count: int) -> tuple[int, ...]:
    """Return a shape with so many samples where their axis is free; the free one before the last is an image's height."""
    rank, shape = len(tensor.shape), []
    channels_last = rank == 4 and isinstance(tensor.shape[-1], int)
    height = rank - 3 if channels_last else rank - 2
    for axis, size in enumerate(tensor.shape):
        if isinstance(size, int):
            shape.append(size)
        elif axis == samples:
            shape.append(count)
        elif axis == 1 and rank == 4 and not channels_last:
            shape.append(3)
        else:
            shape.append(sizes[0] if axis == height and rank >= 4 else sizes[1])
    return tuple(shape)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return rng.normal(size=shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 2, shape).astype(dtype)


def proved(path: Path, module: fx.GraphModule, run: Run, samples: int = 1, axes: Axes = ()) -> fx.GraphModule:
    """Return a module that computes what its file does, with the :class:`Agreement` among its ``meta``.

    Args:
        path: of the file.
        module: that was read from it, with its origin.
        run: of the file.
        samples: how many times the inputs are given at once to a module that takes any batch: each is to come out as alone.
        axes: of the inputs, along which they are given; of one time none.

    Raises:
        CaptureError: the outputs differ by more than :data:`LIMIT`, or have other shapes.
    """
    import torch

    inputs = run.inputs
    if samples > 1:
        inputs = tuple(np.concatenate([array] * samples, axis) for array, axis in zip(run.inputs, axes, strict=True))
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(a.astype(np.float32) if a.dtype.kind == "f" else a) for a in inputs))
    found = [t.numpy() for t in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs)]
    differences: dict[str, float] = {}
    for tensor, mine, once in zip(module.meta[ORIGIN].outputs, found, run.outputs, strict=True):
        its = _repeated(once, mine.shape, samples)
        if mine.shape != its.shape:
            raise CaptureError(
                f"{path}: output '{tensor.name}' has shape {its.shape} in the file's runtime and {mine.shape} in PyTorch"
            )
        differences[tensor.name] = _difference(mine, its)
    agreement = module.meta[AGREEMENT] = Agreement(differences)
    if agreement.worst > LIMIT:
        name = max(differences, key=differences.__getitem__)
        raise CaptureError(
            f"{path}: output '{name}' in PyTorch differs from the file's runtime by {differences[name]:.1%} of its spread: an "
            "operator is read wrongly; report the file, or cut the model before that operator"
        )
    log.info("%s in PyTorch differs from its runtime by %.1g of its outputs' spread", path, agreement.worst)
    return module


def _repeated(array: np.ndarray, shape: tuple[int, ...], samples: int) -> np.ndarray:
    """Return an output of one batch as often as there are batches, along the axis in which a shape is longer."""
    if array.ndim != len(shape) or array.shape == shape:
        return array
    axis = next((axis for axis, (its, mine) in enumerate(zip(array.shape, shape, strict=True)) if mine == samples * its), None)
    return array if axis is None else np.concatenate([array] * samples, axis)


def _difference(mine: np.ndarray, its: np.ndarray) -> float:
    if its.size == 0:
        return 0.0
    if its.dtype.kind != "f":
        return float(np.mean(mine != its))
    mine, its = mine.astype(np.float64), its.astype(np.float64)
    equal = (mine == its) | (np.isnan(mine) & np.isnan(its))
    if equal.all():
        return 0.0
    finite = its[np.isfinite(its)]
    # A few values, such as the score of one sample, may lie close together by chance: then their size stands for the spread.
    of_size = float(np.abs(finite).max(initial=0.0)) if finite.size < _FEW else 0.0
    spread = max(float(np.ptp(finite)), of_size, _LEAST_SPREAD) if finite.size else 0.0
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(mine - its)[~equal].max())
    return difference / spread if spread and np.isfinite(difference) else float("inf")
