"""The checks, as a table, and the call that runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qat.display.progress import shown
from qat.frameworks import framework_of
from qat.program.file_origin import origin_of
from qat.typing import Array, Layout, Model, Samples

from . import of_reference, of_samples, of_values
from .result import Check, DataChecks
from .seen import KEPT, KEPT_OF_REFERENCE, Seen
from .sides import Sides
from .verdict import Verdict


@dataclass(frozen=True)
class _Row:
    """A check: its name, what it measures, its function, and the checks that explain what it would find."""

    name: str
    measures: str
    ends: Callable[[Sides], Verdict]
    after: tuple[str, ...] = ()


CHECKS = (
    _Row("samples", "number of samples", of_samples.number),
    _Row("classes", "every class of the reference, and its share", of_samples.classes),
    _Row("duplicates", "share of repeated samples", of_samples.duplicates),
    _Row("values", "NaN and infinite values", of_values.finite),
    _Row("dtype", "type of the values", of_values.dtype),
    _Row("constants", "inputs and channels that never change", of_values.constant),
    _Row("noise", "correlation of neighbouring values, or of a table's columns", of_values.real),
    _Row("ranges", "growth of the range in the last quarter of the samples", of_values.settled, ("values",)),
    _Row("model", "whether the float model runs on the samples", of_reference.model),
    _Row("preprocessing", "layout, range, scale, order of the channels", of_reference.preprocessing, ("constants", "noise")),
    _Row(
        "augmentation", "two-sample tests against the reference", of_reference.distribution,
        ("constants", "noise", "preprocessing", "values"),
    ),
)  # fmt: skip


def check_data(
    samples: Samples,
    *,
    reference: Samples | None = None,
    labels: Array | None = None,
    model: Model | None = None,
    layout: Layout | None = None,
    progress: bool = True,
) -> DataChecks:
    """Check calibration samples: enough, of every class, real, not augmented, preprocessed as at inference.

    The samples are read once, and none is kept: statistics follow them, and two-sample tests look at descriptors of at most
    1,024 samples and 4,096 of the reference. A test warns of samples that are like the reference once in ten thousand sets.

    Args:
        samples: as for :func:`qat.calibrate`: batches of inputs, or ``(inputs, labels)`` pairs, or one array.
        reference: clean data like those of the application, evaluation data for example, in the same forms. Without it layout,
            scale, order of the channels and augmentation are not checked.
        labels: class numbers of all samples, ``[n]``; None takes those of the pairs.
        model: the float model. Its outputs are compared too.
        layout: of images, ``NCHW`` or ``NHWC``; None: as the model's framework has them, else by the number of channels.
        progress: as for :func:`qat.calibrate`.

    Returns:
        The checks, a row each: ``passed``, ``warned``, ``failed`` or ``not applicable``.

    Raises:
        DataError: there are no samples, or they are no arrays of numbers.

    Examples:
        >>> import numpy as np, qat
        >>> x = np.random.default_rng(0).normal(size=(40, 28, 28, 1)).astype(np.float32)
        >>> found = qat.check_data(x, progress=False)
        >>> [(check.name, check.status) for check in found.not_fine()]
        [('samples', 'failed'), ('noise', 'failed')]
    """
    layout = layout or (None if model is None else _layout_of(model))
    with shown(progress):
        mine = Seen.of(samples, labels, model, layout, "calibration samples", KEPT)
        theirs = None if reference is None else Seen.of(reference, None, model, layout, "reference", KEPT_OF_REFERENCE)
    return checked(Sides(mine, theirs))


def _layout_of(model: Model) -> Layout:
    """Return how the images of a model lie: of one that was read from a file, as the file has them."""
    origin = origin_of(model)
    return "NCHW" if framework_of(model) == "torch" and (origin is None or origin.suffix == ".onnx") else "NHWC"


def checked(sides: Sides) -> DataChecks:
    """Return the checks of samples that were read; what an earlier check explains is not said again."""
    found: dict[str, Check] = {}
    for row in CHECKS:
        cause = next((name for name in row.after if found[name].status in ("warned", "failed")), None)
        ends = row.ends(sides) if cause is None else Verdict("not applicable", f"not looked at after '{cause}'")
        found[row.name] = Check(row.name, row.measures, *ends)
    return DataChecks(sides.samples.samples, 0 if sides.reference is None else sides.reference.samples, tuple(found.values()))
