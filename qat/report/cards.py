"""The samples of a comparison as a person looks at them: pictures and a few figures each, or rows where there is no picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qat.display.table import Column, Style, Table
from qat.system.nests import mapped
from qat.trainers.detection_metrics import TO_COCO, detections, truth

from .html.page import Gallery, Mood, Sample, Thumbnail
from .pictures import colours_of, pixels_of, png_of, with_boxes
from .report import Report
from .samples import ComparedSample

#: The score from which on a box is drawn.
_SURE = 0.3
#: Of several numbers so many are shown.
_NUMBERS = 4


def samples_dict(report: Report) -> list[dict[str, Any]]:
    """Return the samples as JSON-ready values."""
    return [_dict(sample) for sample in report.samples]


def _dict(sample: ComparedSample) -> dict[str, Any]:
    out: dict[str, Any] = {
        "index": sample.index, "changed": sample.changed, "confidence_drift": _finite(sample.drift),
        "output_mse": _finite(sample.mse),
    }  # fmt: skip
    if sample.is_one_answer:
        for name, outputs in (("reference", sample.reference), ("examined", sample.outputs)):
            number, share = sample.answer(outputs)
            out[name] = {"class": number, "confidence": _finite(100 * share)}
        label = _class_of(sample.label)
        out |= {"verdict": sample.verdict} | ({} if label is None else {"label": label})
    return out


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _class_of(label: Any) -> int | None:
    """Return a label's class number, also of a one-hot row; None of any other label."""
    if not isinstance(label, (np.ndarray, np.generic, int)):
        return None
    array = np.asarray(label)
    if array.ndim == 1 and array.size > 1:
        return int(array.argmax())
    return int(array.reshape(-1)[0]) if array.size == 1 else None


def blocks(report: Report) -> tuple[Gallery | Table, ...]:
    """Return the samples as a gallery where they can be seen, else as a table; nothing where there are none."""
    made = [_sample(sample, report) for sample in report.samples]
    if not made:
        return ()
    if any(sample.thumbnails for sample in made):
        return (Gallery(tuple(made)),)
    names = tuple(name for name, _ in made[0].facts)
    has_verdict = any(sample.verdict for sample in made)
    columns = (Column("sample"), *([Column("answer")] if has_verdict else []), *(Column(name, right=True) for name in names))
    rows = tuple((s.title, *([s.verdict] if has_verdict else []), *(value for _, value in s.facts)) for s in made)
    styles: tuple[Style, ...] = tuple("bad" if sample.mood == "bad" else "" for sample in made)
    return (Table(columns, rows, styles=styles),)


def _sample(sample: ComparedSample, report: Report) -> Sample:
    reference = "float" if report.against_float else report.reference
    names = (reference, report.examined)
    metric = report.metric
    found: tuple[str, Mood, tuple[tuple[str, str], ...]]
    if sample.is_one_answer:
        found = _answer(sample, report, names)
    elif sample.axis is not None:
        found = ("", "", (("pixels changed", f"{100 * (sample.changed or 0):.2f} %"),))
    else:
        found = ("", "", _numbers(sample, names))
    verdict, mood, facts = found
    if sample.axis is not None and sample.drift is not None:
        facts = (*facts, ("drift", f"{sample.drift:.4f}"))
    facts = (*facts, ("MSE", f"{sample.mse:.3g}"))
    is_boxes = metric is not None and metric.name.startswith("map")
    thumbnails = _boxes(sample, report, names) if is_boxes else _thumbnails(sample, names)
    return Sample(f"sample {sample.index}", verdict, mood, thumbnails, facts)


def _answer(sample: ComparedSample, report: Report, names: Sequence[str]) -> tuple[str, Mood, tuple[tuple[str, str], ...]]:
    values = _dict(sample)
    answers = (sample.answer(sample.reference), sample.answer(sample.outputs))
    shown = [f"{report.story.class_name(number)}, {100 * share:.2f} %" for number, share in answers]
    truth = (("label", report.story.class_name(values["label"])),) if "label" in values else ()
    flipped = values["verdict"] == "FLIP"
    return values["verdict"], "bad" if flipped else "good", (*truth, *zip(names, shown, strict=True))


def _numbers(sample: ComparedSample, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the first numbers of both outputs, where they are few."""
    pairs = zip(names, (sample.reference[0], sample.outputs[0]), strict=True)
    if len(sample.outputs) > 1 or sample.outputs[0].size > _NUMBERS:
        return ()
    label = np.asarray(sample.label) if isinstance(sample.label, (np.ndarray, np.generic, float, int)) else None
    given = () if label is None or label.size > _NUMBERS or label.dtype.kind not in "iuf" else (("label", _written(label)),)
    return (*given, *((name, _written(array)) for name, array in pairs))


def _written(array: np.ndarray) -> str:
    return ", ".join(f"{value:.5g}" for value in array.reshape(-1))


def _thumbnails(sample: ComparedSample, names: Sequence[str]) -> tuple[Thumbnail, ...]:
    """Return the input; of maps and images also the label and what both files make of it."""
    made = _pictures(("input", sample.inputs[0]))
    first = (sample.reference[0], sample.outputs[0])
    if sample.axis is not None and first[0].ndim > 1:
        maps = [*([] if not isinstance(sample.label, np.ndarray) else [("label", sample.label)])]
        maps += [(name, output.argmax(sample.axis)) for name, output in zip(names, first, strict=True)]
        flat = [(name, np.squeeze(array)) for name, array in maps]
        made += [Thumbnail(png_of(colours_of(array)), f"classes by {name}", name) for name, array in flat if array.ndim == 2]
    elif sample.axis is None and first[0].ndim > 1:
        made += _pictures(*zip(names, first, strict=True))
        difference = np.abs(first[0].astype(np.float64) - first[1])
        made += _pictures(("difference, stretched", difference / (difference.max() or 1.0)))
    return tuple(made)


def _pictures(*arrays: tuple[str, np.ndarray]) -> list[Thumbnail]:
    found = ((name, pixels_of(array)) for name, array in arrays)
    return [Thumbnail(png_of(pixels), name, name) for name, pixels in found if pixels is not None]


def _boxes(sample: ComparedSample, report: Report, names: Sequence[str]) -> tuple[Thumbnail, ...]:
    """Return the input with the boxes of the label and of both files, those that they are sure of."""
    pixels, metric = pixels_of(sample.inputs[0]), report.metric
    if pixels is None or metric is None:
        return ()
    options: Mapping[str, Any] = getattr(metric.values, "keywords", {})
    to_coco, decode = TO_COCO[options.get("boxes", "xyxy")], options.get("decode")
    try:
        found = [detections(tuple(y[None] for y in outputs), decode)[0] for outputs in (sample.reference, sample.outputs)]
        wanted = truth(_batch_of_one(sample.label), 1)[0]
    except (ValueError, TypeError):  # outputs of the user's own form, which a metric of the user's own reads
        return tuple(_pictures(("input", sample.inputs[0])))
    sure: list[tuple[str, np.ndarray, np.ndarray]] = [("label", wanted[0], wanted[1])]
    sure += [(name, b[score >= _SURE], c[score >= _SURE]) for name, (b, c, score) in zip(names, found, strict=True)]
    return tuple(
        Thumbnail(
            png_of(with_boxes(pixels, to_coco(boxes.astype(np.float64)).tolist(), [int(c) for c in classes])),
            f"{len(boxes)} boxes by {name}", f"{name}: {len(boxes)}",
        )
        for name, boxes, classes in sure
    )  # fmt: skip


def _batch_of_one(label: Any) -> Any:
    return mapped(lambda array: np.asarray(array)[None], label)
