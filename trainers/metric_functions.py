"""The functions behind the metrics by name, in NumPy: ``(outputs, labels) -> values``, one row a sample.

Most metrics are the mean of their samples' values. F1, intersection over union, R2 and perplexity are not: their functions return
the counts of each sample, and a second function makes the metric of the counts of all samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qat.errors import MissingDependencyError

#: Labels of a map that belong to no class: of PASCAL VOC and its successors, and PyTorch's ``ignore_index``.
IGNORED = (255, -100)


def class_numbers(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted and the true class numbers, in arrays of one shape.

    Labels of the outputs' shape (a teacher's outputs, one-hot rows) name their largest entry. Otherwise the axis of the classes
    is the one that the labels lack: the last, or that of PyTorch's maps ``[n, classes, height, width]``.

    Raises:
        ValueError: the labels are no class numbers of these outputs.
    """
    if labels.shape == outputs.shape:
        return outputs.argmax(-1), labels.argmax(-1)
    for axis in (outputs.ndim - 1, 1):
        before, after = outputs.shape[:axis], outputs.shape[axis + 1 :]
        if labels.shape in ((*before, *after), (*before, 1, *after)):
            return outputs.argmax(axis), labels.reshape(*before, *after)
    raise ValueError(f"labels of shape {labels.shape} are no class numbers of outputs of shape {outputs.shape}")


def _counted(labels: np.ndarray) -> np.ndarray:
    return ~np.isin(labels, IGNORED)


def top1(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the largest output is the label's, in percent; of several labels a sample, the share of them."""
    found, wanted = class_numbers(outputs, labels)
    return 100.0 * (found == wanted) if wanted.ndim == 1 else pixel_accuracy(outputs, labels)


def top(k: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function that says of each sample whether its label is among the ``k`` largest outputs, in percent."""

    def among(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        best = np.argsort(-outputs, axis=-1, kind="stable")[..., :k]
        return 100.0 * (best == class_numbers(outputs, labels)[1][..., None]).any(-1)

    return among


def pixel_accuracy(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's share of right pixels, in percent; those labelled 255 or -100 do not count."""
    found, wanted = class_numbers(outputs, labels)
    counted = _counted(wanted).reshape(len(wanted), -1)
    right = (found == wanted).reshape(len(wanted), -1) & counted
    return np.asarray(100.0 * right.sum(1) / np.maximum(counted.sum(1), 1))


def mse(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's mean squared error."""
    return np.asarray((_error(outputs, labels) ** 2).mean(-1))


def mae(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's mean absolute error."""
    return np.asarray(np.abs(_error(outputs, labels)).mean(-1))


def _error(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (outputs.astype(np.float64) - _like(labels, outputs)).reshape(len(outputs), -1)


def _like(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return labels in the outputs' shape, of which only axes of size one may differ. Raises ValueError."""
    if [n for n in labels.shape[1:] if n != 1] != [n for n in outputs.shape[1:] if n != 1]:
        raise ValueError(f"labels of shape {labels.shape} are not of the outputs' shape {outputs.shape}")
    return labels.reshape(outputs.shape)


def psnr(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's peak signal-to-noise ratio in dB, for a peak of 1; equal images give 100."""
    return np.asarray(-10.0 * np.log10(np.maximum(mse(outputs, labels), 1e-10)))


def bit_accuracy(outputs: np.ndarray, labels: np.ndarray, *, threshold: float = 0.0) -> np.ndarray:
    """Return each sample's share of outputs on their label's side of the threshold, in percent.

    Labels are 0 or 1, or another model's outputs. Outputs are logits; those behind a sigmoid have the threshold 0.5.
    """
    right = (outputs > threshold) == _ones(_like(labels, outputs), threshold)
    return np.asarray(100.0 * right.reshape(len(outputs), -1).mean(-1))


def mask_iou(outputs: np.ndarray, labels: np.ndarray, *, threshold: float = 0.5) -> np.ndarray:
    """Return each sample's intersection over union of the masks above the threshold, in percent; two empty masks are equal.

    Labels are 0 or 1, or another model's outputs. Outputs are probabilities; logits have the threshold 0.
    """
    found = (outputs > threshold).reshape(len(outputs), -1)
    wanted = _ones(_like(labels, outputs), threshold).reshape(found.shape)
    union = (found | wanted).sum(1)
    return np.where(union > 0, 100.0 * (found & wanted).sum(1) / np.maximum(union, 1), 100.0)


def _ones(labels: np.ndarray, threshold: float) -> np.ndarray:
    """Return which labels are ones: those above the threshold, or above a half where all are 0 or 1."""
    return np.asarray(labels > (0.5 if np.isin(labels, (0, 1)).all() else threshold))


def landmark_error(outputs: np.ndarray, labels: np.ndarray, *, coordinates: int = 2, scale: float = 1.0) -> np.ndarray:
    """Return each sample's mean distance of its landmarks from the labels', in pixels of the image: by x and y, the first two.

    Args:
        outputs: ``[n, landmarks, coordinates]``, or flat in this order.
        labels: likewise.
        coordinates: of a landmark; 3 where a depth follows.
        scale: pixels for a unit of the outputs; the image's size where they count from 0 to 1.
    """
    if coordinates < 2 or (outputs.size // len(outputs)) % coordinates:
        raise ValueError(f"outputs of shape {outputs.shape} are no landmarks of {coordinates} coordinates")
    off = _error(outputs, labels).reshape(len(outputs), -1, coordinates)[..., :2]
    return np.asarray(scale * np.linalg.norm(off, axis=-1).mean(-1))


def ssim(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's structural similarity for a peak of 1, by torchmetrics. Channels are the smaller of axis 1 and -1."""
    try:
        import torch
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise MissingDependencyError("the metric ssim is torchmetrics': pip install 'qat-toolkit[ssim]'") from error

    last = outputs.shape[-1] < outputs.shape[1]
    images = (np.moveaxis(x, -1, 1) if last else x for x in (outputs, _like(labels, outputs)))
    a, b = (torch.from_numpy(np.array(x, np.float32)) for x in images)
    values = structural_similarity_index_measure(a, b, reduction="none", data_range=1.0)
    assert isinstance(values, torch.Tensor)
    return np.asarray(values.reshape(len(outputs)).numpy())


def pair_counts(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each sample its true and predicted class ``[n, 2]``; of maps, how often each pair occurs ``[n, c, c]``."""
    found, wanted = class_numbers(outputs, labels)
    if wanted.ndim == 1:
        return np.stack([wanted, found], 1)
    classes = next(size for axis, size in ((-1, outputs.shape[-1]), (1, outputs.shape[1])) if _lacks(labels, outputs, axis))
    counts = np.zeros((len(wanted), classes * classes), np.float32)
    for row, true, predicted in zip(counts, wanted.reshape(len(wanted), -1), found.reshape(len(found), -1), strict=True):
        kept = _counted(true)
        row += np.bincount(true[kept].astype(np.int64) * classes + predicted[kept], minlength=classes * classes)
    return counts.reshape(-1, classes, classes)


def _lacks(labels: np.ndarray, outputs: np.ndarray, axis: int) -> bool:
    size = list(outputs.shape)
    if labels.shape == outputs.shape:
        return axis == -1
    size[axis] = 1
    return labels.size == np.prod(size) and labels.shape in (tuple(size), tuple(np.delete(outputs.shape, axis)))


def _of_classes(name: str) -> Callable[[np.ndarray], float]:
    """Return scikit-learn's score of that name, as a function of :func:`pair_counts`: the mean over the classes, in percent."""

    def score(counts: np.ndarray) -> float:
        try:
            from sklearn import metrics
        except ImportError as error:
            raise MissingDependencyError(f"{name} is scikit-learn's: pip install 'qat-toolkit[report]'") from error
        weights = None
        if counts.ndim == 2:
            true, found = counts.T
        else:
            table = counts.astype(np.float64).sum(0)
            true, found = np.nonzero(table)
            weights = table[true, found]
        value = getattr(metrics, name)(true, found, sample_weight=weights, average="macro", zero_division=0)
        return 100.0 * float(value)

    return score


f1_of_counts = _of_classes("f1_score")
iou_of_counts = _of_classes("jaccard_score")


def root_of_mean(values: np.ndarray) -> float:
    """Return the root of the mean: RMSE of mean squared errors."""
    return float(np.sqrt(values.mean()))


def both(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return labels and outputs side by side: ``[n, 2, values]``."""
    return np.stack([_like(labels, outputs).reshape(len(outputs), -1), outputs.reshape(len(outputs), -1)], 1)


def r2_of_both(values: np.ndarray) -> float:
    """Return the coefficient of determination of :func:`both`, the mean over the outputs, by scikit-learn."""
    try:
        from sklearn.metrics import r2_score
    except ImportError as error:
        raise MissingDependencyError("r2 is scikit-learn's: pip install 'qat-toolkit[report]'") from error
    return float(r2_score(values[:, 0], values[:, 1]))


def negative_log_likelihood(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each sample the sum of its labels' negative logarithms of probability, and their number: ``[n, 2]``.

    Outputs are logits ``[n, classes]`` or ``[n, length, classes]``.
    """
    found, wanted = class_numbers(outputs, labels)
    counted = _counted(wanted)
    logits = outputs.astype(np.float64) - outputs.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, np.where(counted, wanted, 0)[..., None].astype(np.int64), -1)[..., 0]
    lost = np.where(counted, np.log(np.exp(logits).sum(-1)) - chosen, 0.0)
    return np.stack([lost.reshape(len(found), -1).sum(1), counted.reshape(len(found), -1).sum(1)], 1)


def perplexity_of_sums(values: np.ndarray) -> float:
    """Return the exponential of the mean of :func:`negative_log_likelihood`."""
    lost, count = values.sum(0)
    return float(np.exp(lost / max(count, 1)))
