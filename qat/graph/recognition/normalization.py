"""LayerNorm, GroupNorm, RMSNorm, L2 norm and softmax that are written in pieces, recognised by their values.

A region of elementwise operators and reductions is evaluated on random numbers, of usual size and of the sizes at which the
numbers that it adds, such as an epsilon, weigh most. It is the function whose values it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..graph import Op
from .sheet import Region, Sheet
from .values import REDUCTIONS, has_values, is_reduction, reduction, values_of

Axes = tuple[int, ...]


@dataclass(frozen=True)
class _Form:
    """A function over axes of a tensor.

    Attributes:
        kind: of the operator that computes it over the last axis.
        attrs: the operator's attributes, from the number that the function takes and the number of elements that it reads.
        values: of the function, from its input, the axes and the number.
        factor: a factor of the result, from the number of elements.
        any_axes: whether the operator is worth moving other axes to the last place.
    """

    kind: str
    attrs: Callable[[float, int], dict[str, Any]]
    values: Callable[[np.ndarray, Axes, float], np.ndarray]
    factor: Callable[[int], float] = lambda n: 1.0
    any_axes: bool = True


def _layer_norm(x: np.ndarray, axes: Axes, epsilon: float) -> np.ndarray:
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon))


def _rms_norm(x: np.ndarray, axes: Axes, epsilon: float) -> np.ndarray:
    return np.asarray(x / np.sqrt(np.square(x).mean(axes, keepdims=True) + epsilon))


def _uncentered(x: np.ndarray, axes: Axes, epsilon: float) -> np.ndarray:
    return np.asarray(x / np.sqrt(x.var(axes, keepdims=True) + epsilon))


def _l2_norm(x: np.ndarray, axes: Axes, least: float) -> np.ndarray:
    return np.asarray(x / np.maximum(np.sqrt(np.square(x).sum(axes, keepdims=True)), least))


def _of_sum(x: np.ndarray, axes: Axes, epsilon: float) -> np.ndarray:
    return np.asarray(x / np.sqrt(np.square(x).sum(axes, keepdims=True) + epsilon))


def _softmax(x: np.ndarray, axes: Axes, _: float) -> np.ndarray:
    y = np.exp(x - x.max(axes, keepdims=True))
    return np.asarray(y / y.sum(axes, keepdims=True))


_FORMS = (
    _Form("layer_norm", lambda epsilon, n: {"epsilon": epsilon}, _layer_norm),
    _Form("layer_norm", lambda epsilon, n: {"epsilon": epsilon, "uncentered": True}, _uncentered),
    _Form("rms_norm", lambda epsilon, n: {"epsilon": epsilon, "least": 0.0}, _rms_norm),
    # x / max(|x|, least) = (x / sqrt(n)) / max(sqrt(mean(x^2)), least / sqrt(n))
    _Form("rms_norm", lambda least, n: {"epsilon": 0.0, "least": least / n**0.5}, _l2_norm, lambda n: n**-0.5),
    _Form("rms_norm", lambda epsilon, n: {"epsilon": epsilon / n, "least": 0.0}, _of_sum, lambda n: n**-0.5),
    _Form("softmax", lambda _, n: {"beta": 1.0}, _softmax, any_axes=False),
)


def recognise_normalizations(sheet: Sheet) -> None:
    """Put each normalization and softmax in the place of the largest region that computes it."""
    for root in sheet:
        if root.kind not in ("mul", "float") or reduction(root) in REDUCTIONS or not _takes_part(sheet, root):
            continue
        for region in reversed(sheet.regions(root, lambda op: _takes_part(sheet, op))):
            if _written(sheet, region):
                break


def _takes_part(sheet: Sheet, op: Op) -> bool:
    return has_values(sheet, op, arrays=op.kind == "mul")


def _written(sheet: Sheet, region: Region) -> bool:
    """Put an operator in the place of a region that is a normalization; return whether it is one."""
    base, root = sheet.tensors[region.base], region.ops[-1]
    axes, gammas = _axes(sheet, region), _factors(sheet, region)
    if axes is None or len(gammas) > 1:
        return False
    places = [axes, *([channel] if (channel := _other_axes(axes, len(base.shape))) is not None else [])]
    if not all(any(_varies_over(sheet, gamma, over, len(base.shape)) for over in places) for gamma in gammas):
        return False
    sizes = [n or 4 for n in base.example or base.shape]
    n = math.prod(sizes[a] for a in axes)
    found = _form_of(sheet, region, (1, *sizes[1:]), axes, gammas)
    if found is None:
        return False
    form, number = found
    if form.kind == "layer_norm" and not form.attrs(number, n).get("uncentered"):
        grouped = _in_groups(sheet, region, axes, gammas, number)
        if grouped is not None:
            sheet.replace(*grouped)
            return True
    if not all(_varies_over(sheet, gamma, axes, len(base.shape)) for gamma in gammas):
        return False
    params: dict[str, str] = {}
    last = root
    if form.kind != "softmax" and form.factor(n) == 1:
        gamma = gammas[0] if gammas else None
        if gamma is None:
            last, gamma = _joined(sheet, last, "mul", axes)
        params |= {"gamma": sheet.parameter(gamma) or ""} if gamma is not None else {}
        if form.kind == "layer_norm":
            last, beta = _joined(sheet, last, "add", axes)
            params |= {"beta": sheet.parameter(beta) or ""} if beta is not None else {}
    elif gammas:
        return False
    elif form.factor(n) != 1:
        params["gamma"] = sheet.add_param(f"{root.name}.gamma", np.full(n, form.factor(n)), fixed=True)
    made = Op(last.name, form.kind, (region.base,), last.outputs, params, form.attrs(number, n), root.scope)
    sheet.replace(last, *over_last_axis(sheet, made, axes))
    return True


def _other_axes(axes: Axes, rank: int) -> Axes | None:
    """Return the only axis but the batch that a norm does not read; None where there are none, or several."""
    others = tuple(a for a in range(1, rank) if a not in axes)
    return others if len(others) == 1 else None


def _in_groups(sheet: Sheet, region: Region, axes: Axes, gammas: Sequence[str], epsilon: float) -> tuple[Op, Op] | None:
    """Return the last operator of a GroupNorm or InstanceNorm that a LayerNorm over ``axes`` is part of, and that norm.

    The axis that is left is that of the groups: of the channels, or of what a reshape has made of the channels, and another
    reshape joins again.
    """
    base, root = sheet.tensors[region.base], region.ops[-1]
    rank, other = len(base.shape), _other_axes(axes, len(base.shape))
    if other is None or any(n is None for n in base.shape[1:]):
        return None
    (axis,), source, last, groups = other, region.base, root, base.shape[other[0]] or 1
    before, readers = sheet.writers.get(source), sheet.readers.get(root.output, [])
    joins = len(readers) == 1 and readers[0].kind == "reshape" and root.output not in sheet.graph.outputs and not gammas
    if before is not None and before.kind == "reshape" and joins:
        image = sheet.tensors[before.inputs[0]].shape
        channel = _channels(image, base.shape, axis)
        if channel is not None and sheet.tensors[readers[0].output].shape == image:
            source, last, axis, rank = before.inputs[0], readers[0], channel, len(image)
    elif axes == (rank - 1,) and not gammas and not any(_joined(sheet, root, kind, other)[1] for kind in ("mul", "add")):
        return None  # a LayerNorm as it stands
    elif any(_joined(sheet, root, kind, axes)[1] for kind in ("mul", "add")):
        return None  # whose factors vary along the other axes
    if not all(_varies_over(sheet, gamma, (axis,), rank) for gamma in gammas):
        return None
    gamma = gammas[0] if gammas else None
    if gamma is None:
        last, gamma = _joined(sheet, last, "mul", (axis,))
    last, beta = _joined(sheet, last, "add", (axis,))
    params = {role: sheet.parameter(t) or "" for role, t in (("gamma", gamma), ("beta", beta)) if t is not None}
    attrs = {"epsilon": epsilon, "groups": groups, "axis": axis}
    return last, Op(last.name, "group_norm", (source,), last.outputs, params, attrs, root.scope)


def _channels(image: Sequence[int | None], grouped: Sequence[int | None], axis: int) -> int | None:
    """Return the axis of an image whose channels a reshape has divided into groups along ``axis``; None for another reshape."""
    sizes, made = ([n or 0 for n in shape[1:]] for shape in (image, grouped))
    groups = grouped[axis] or 0
    if axis == 1 and sizes and sizes[0] % groups == 0 and math.prod(sizes) == math.prod(made):
        return 1
    last = axis == len(grouped) - 2 and made[:-2] == sizes[:-1] and groups * made[-1] == sizes[-1]
    return len(image) - 1 if last else None


def _axes(sheet: Sheet, region: Region) -> Axes | None:
    """Return the axes that all reductions of a region have in common; None for a region that is no function over axes."""
    base, result = sheet.tensors[region.base], sheet.tensors[region.ops[-1].output]
    rank = len(base.shape)
    found = {tuple(sorted(int(a) % rank for a in op.attrs["axes"])) for op in region.ops if is_reduction(op)}
    if base.shape != result.shape or base.dtype != "float32" or len(found) != 1:
        return None
    (axes,) = found
    moved = axes != (rank - 1,) and len(axes) > 1  # a reshape merges them
    fixed = [base.shape[a] for a in (range(1, rank) if moved else axes)]
    return None if 0 in axes or None in fixed or math.prod(n or 1 for n in fixed) < 2 else axes


def _factors(sheet: Sheet, region: Region) -> list[str]:
    """Return the constants of more elements than one that a region multiplies by."""
    return [t for op in region.ops for t in op.inputs if sheet.is_constant(t) and sheet.number(t) is None]


def _varies_over(sheet: Sheet, constant: str, axes: Axes, rank: int) -> bool:
    """Whether a constant has one value for each element of the axes, and none for any other axis."""
    shape = sheet.shape_of_constant(constant)
    shape = (1,) * (rank - len(shape)) + shape
    sizes = [n for a, n in enumerate(shape) if a not in axes]
    return len(shape) == rank and set(sizes) <= {1} and all(shape[a] > 1 for a in axes)


def _joined(sheet: Sheet, op: Op, kind: str, axes: Axes) -> tuple[Op, str | None]:
    """Return the only reader of an operator and its constant, where it multiplies or adds one that varies over the axes."""
    readers = sheet.readers.get(op.output, [])
    if len(readers) == 1 and readers[0].kind == kind and op.output not in sheet.graph.outputs and sheet.admits(readers[0]):
        spec = sheet.tensors[op.output]
        for constant in readers[0].inputs:
            if sheet.is_constant(constant) and _varies_over(sheet, constant, axes, len(spec.shape)):
                n = [spec.shape[a] for a in axes]
                if math.prod(sheet.shape_of_constant(constant)) == math.prod(size or 0 for size in n):
                    return readers[0], constant
    return op, None


def _form_of(sheet: Sheet, region: Region, shape: Sequence[int], axes: Axes, gammas: Sequence[str]) -> tuple[_Form, float] | None:
    """Return the form of a region and its number; None for a region that has no form."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1.0, shape)
    arrays = {t: rng.uniform(0.5, 2.0, sheet.shape_of_constant(t)) for t in gammas}
    gamma = next(iter(arrays.values()), np.float64(1.0))
    numbers = _numbers(sheet, region)

    def agrees(form: _Form, number: float, size: float) -> bool:
        expected = form.values(size * x, axes, number) * gamma
        return _agree(values_of(sheet, region, size * x, arrays), expected)

    with np.errstate(all="ignore"):
        for form in _FORMS:
            if axes == (len(shape) - 1,) or form.any_axes:
                for number in numbers:
                    if (
                        agrees(form, number, 1.0)
                        and agrees(form, number, number**0.5 or 1e-3)
                        and agrees(form, number, number or 0.1)
                    ):
                        return form, number
    return None


def _numbers(sheet: Sheet, region: Region) -> list[float]:
    """Return the small numbers that a region may add or clamp at, 0 among them; a reciprocal is clamped at a large one."""
    found = [sheet.number(t) for op in region.ops for t in op.inputs if sheet.is_constant(t)]
    found += [op.attrs[end] for op in region.ops if op.kind == "clamp" for end in ("low", "high")]
    sizes = [1 / n if n > 10.0 else n for n in found if n]
    return [0.0, *(n for n in dict.fromkeys(sizes) if 0.0 < n < 0.1)]


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    size = np.abs(expected).max()
    return found.shape == expected.shape and bool(np.isfinite(size) and np.abs(found - expected).max() <= 1e-6 * size)


def over_last_axis(sheet: Sheet, op: Op, axes: Axes) -> list[Op]:
    """Return the operators that apply ``op``, which works on the last axis, over other axes: they are moved there, and merged."""
    spec = sheet.tensors[op.inputs[0]]
    rank = len(spec.shape)
    if axes == (rank - 1,):
        return [op]
    order = (0, *(a for a in range(1, rank) if a not in axes), *axes)
    kept = rank - len(axes)
    turned = [spec.shape[a] for a in order]
    example = [spec.example[a] for a in order] if spec.example else []
    ops: list[Op] = []

    def add(name: str, kind: str, source: str, sizes: Sequence[int | None], output: str = "", **attrs: object) -> str:
        sized = example if len(sizes) == len(example) else []
        tensor = output or sheet.add_tensor(f"{op.output}_{name}", sizes, sized)
        ops.append(Op(op.name if output else tensor, kind, (source,), (tensor,), {}, attrs, op.scope))
        return tensor

    moves, merges = order != tuple(range(rank)), len(axes) > 1
    source = add("moved", "transpose", op.inputs[0], turned, axes=order) if moves else op.inputs[0]
    line = [*turned[:kept], math.prod(n or 1 for n in turned[kept:])]
    if merges:
        source = add("merged", "reshape", source, line, shape=(-1, *line[1:]))
    made = sheet.add_tensor(f"{op.output}_normalized", line, [] if merges else example)
    ops.append(replace(op, name=made, inputs=(source,), outputs=(made,)))
    if merges:
        made = add("split", "reshape", made, turned, "" if moves else op.output, shape=(-1, *turned[1:]))
    if moves:
        back = tuple(int(a) for a in np.argsort(order))
        add("back", "transpose", made, [], op.output, axes=back)
    return ops


def normalize_last_axes(sheet: Sheet) -> None:
    """Write each normalization over several axes, or over others than the last one, as one over the last axis."""
    for op in sheet:
        if "axes" in op.attrs and op.kind in ("layer_norm", "rms_norm"):
            attrs = {name: value for name, value in op.attrs.items() if name != "axes"}
            sheet.replace(op, *over_last_axis(sheet, replace(op, attrs=attrs), op.attrs["axes"]))
