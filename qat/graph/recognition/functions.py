"""Functions of one tensor, recognised by their values.

Operators that compute a tensor element by element from one other are a function: ``x * relu6(x + 3) / 6`` has many spellings, in
every order of the factors. Its values in float64 say which function it is. Hence there is no list of spellings, and a constant
that is off by more than float32 rounds it gives another function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from qat.arithmetic import lookup
from qat.arithmetic.expressions import Steps

from ..graph import Op
from ..kinds import KINDS
from .sheet import Region, Sheet

#: Operators of two operands, element by element.
BINARY = ("add", "mul", "minimum", "maximum", "div")
#: Comparisons with a number, and the choice that they lead to.
_CHOICE = ("greater", "greater_equal", "less", "less_equal", "where")

#: The inputs at which functions are compared; 0 is among them.
_PROBES = np.array([-80.0, -50.0, -20.0, *np.linspace(-12.0, 12.0, 769), 20.0, 50.0, 80.0])
#: The largest difference, relative to the greater of input and result: four roundings of float32 constants.
_TOLERANCE = 2.0**-22
#: Those that are not looked for: a piece of others, or not defined for every input.
_UNKNOWN = ("reciprocal", "erf", "log", "log1p", "expm1", "sqrt", "rsqrt")
#: Functions to whose results a runtime may prescribe a scale, since their limits are known.
_LIMITED = ("sigmoid", "tanh")
#: The least factor behind one with which the steps of such a scale are large.
_AMPLIFIES = 4.0
#: The functions without arguments, those with one form for each argument, and the ReLUs. Fewer bounds come first.
_PLAIN: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("relu", {}),
    ("relu6", {}),
    *((kind, {}) for kind, arguments in lookup.ARGUMENTS.items() if not arguments and kind not in _UNKNOWN),
    ("gelu", {"approximate": False}),
    ("gelu", {"approximate": True}),
)


def meaning(op: Op) -> str:
    """Return an operator's kind, or what a float operator computes."""
    return str(op.attrs.get("computes", "float")) if op.kind == "float" else op.kind


def is_elementwise(sheet: Sheet, op: Op, like: str) -> bool:
    """Whether an operator computes element by element a tensor of the shape of ``like``, from tensors of it and numbers."""
    shape, name = sheet.tensors[like].shape, meaning(op)
    known = name in (*BINARY, *_CHOICE) or KINDS[op.kind].function or KINDS[op.kind].bounds or factor_and_shift(sheet, op)
    if not known or not sheet.admits(op):
        return False
    tensors = [op.output, *sheet.sources(op)]
    fits = all(sheet.tensors[t].shape == shape and sheet.tensors[t].dtype in ("float32", "bool") for t in tensors)
    return fits and all(sheet.number(t) is not None for t in op.inputs if sheet.is_constant(t))


def steps_of(sheet: Sheet, region: Region) -> Steps:
    """Return the steps of a region of elementwise operators."""
    places: dict[str, str] = {region.base: "x"}
    steps: list[tuple[Any, ...]] = []
    for op in region.ops:
        operands = [places[t] if t in places else sheet.number(t) for t in op.inputs]
        if numbers := factor_and_shift(sheet, op):
            steps.append(("mul", *operands, numbers[0]))
            step: tuple[Any, ...] = ("add", f"#{len(steps) - 1}", numbers[1])
        elif bounds := KINDS[op.kind].bounds:
            step = ("clamp", *operands, *bounds)
        else:
            own = lookup.ARGUMENTS.get(op.kind, ("number",) if "number" in op.attrs else ())
            step = (meaning(op), *operands, *(op.attrs[name] for name in own))
        places[op.output] = f"#{len(steps)}"
        steps.append(step)
    return tuple(steps)


def factor_and_shift(sheet: Sheet, op: Op) -> tuple[float, float] | None:
    """Return the two numbers of a BatchNorm that has the same ones for all channels, as Keras' Rescaling; None for any other."""
    if op.kind != "batch_norm" or not set(op.params.values()) <= sheet.fixed:
        return None
    defaults = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": 1.0}
    gamma, beta, mean, variance = (
        np.asarray(sheet.params[op.params[role]] if role in op.params else value, np.float64) for role, value in defaults.items()
    )
    factor = gamma / np.sqrt(variance + op.attrs["epsilon"])
    shift = beta - mean * factor
    return (float(factor.flat[0]), float(shift.flat[0])) if np.ptp(factor) == 0 and np.ptp(shift) == 0 else None


def recognise_functions(sheet: Sheet) -> None:
    """Put each function in the place of the largest region that computes it."""
    for root in sheet:
        for region in _functions_ending_in(sheet, root):
            if found := function_of(steps_of(sheet, region)):
                kind, attrs = found
                sheet.replace(root, Op(root.name, kind, (region.base,), root.outputs, {}, attrs, root.scope))
                break


def compose(sheet: Sheet, worth: Collection[str]) -> None:
    """Write each function that no kind computes as one table of integers, if it holds an operator whose kernel is ``worth`` that.

    So is one whose result is multiplied by a large number: a kernel's prescribed scale has steps that are large then, however
    small the values are. ``30 tanh(x / 30)``, a soft cap, had 19 dB of signal by the kernel's 1/128, 37 by a scale of its own.
    A ReLU or a BatchNorm at its start stays apart: the kernel before it absorbs it.
    """
    for root in reversed(list(sheet)):
        for region in _functions_ending_in(sheet, root) if root.name in sheet.ops else ():
            first = region.ops[0].kind
            if KINDS[first].bounds or first == "batch_norm":
                continue
            steps = steps_of(sheet, region)
            if _is_amplified(steps) or any(meaning(op) in worth for op in region.ops):
                attrs = {"steps": steps}
                sheet.replace(root, Op(root.name, "composed", (region.base,), root.outputs, {}, attrs, root.scope))
                break


def _is_amplified(steps: Steps) -> bool:
    """Return whether a function of limited values, or a sum or product of it, is multiplied by :data:`_AMPLIFIES` or more."""
    limited: set[object] = set()
    for index, (kind, *operands) in enumerate(steps):
        numbers = [o for o in operands if not isinstance(o, str)]
        if kind in _LIMITED:
            limited.add(f"#{index}")
        elif kind in ("add", "mul", "div") and not limited.isdisjoint(operands):
            factors = numbers if kind == "mul" else [1 / o for o in numbers if o] if kind == "div" else []
            if any(abs(factor) >= _AMPLIFIES for factor in factors):
                return True
            limited.add(f"#{index}")
    return False


def _functions_ending_in(sheet: Sheet, root: Op) -> list[Region]:
    """Return the regions of several operators that end in a root and are a function of one tensor, the largest first."""

    def admits(op: Op) -> bool:
        return is_elementwise(sheet, op, root.output)

    regions = sheet.regions(root, admits) if admits(root) else []
    return [region for region in reversed(regions) if len(region.ops) > 1 and _keeps_shape(sheet, region)]


def _keeps_shape(sheet: Sheet, region: Region) -> bool:
    base, result = sheet.tensors[region.base], sheet.tensors[region.ops[-1].output]
    return base.shape == result.shape and base.dtype == result.dtype


def function_of(steps: Steps) -> tuple[str, Mapping[str, Any]] | None:
    """Return the kind and the attributes of a function that is written in steps; None where no kind computes it."""
    with np.errstate(all="ignore"):
        values = lookup.real("composed", {"steps": steps}, _PROBES)
        return next(
            ((kind, attrs) for kind, attrs in _candidates(values) if _agree(values, _known(kind, tuple(attrs.items())))), None
        )


def _candidates(values: np.ndarray) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the functions that may have these values, with the arguments that follow from them."""
    yield from _PLAIN
    below, one, above = (float(np.interp(x, _PROBES, values)) for x in (-80.0, -1.0, 80.0))
    yield "leaky_relu", {"alpha": _short(-one)}
    yield "elu", {"alpha": _short(-below)}
    if np.isfinite([below, above]).all() and below < above:
        low, high = (None if abs(end) == 80.0 else _short(end) for end in (below, above))
        if low is not None or high is not None:
            yield "clamp", {"low": low, "high": high}


def _short(value: float) -> float:
    """Return the shortest decimal number that float32 rounds as it rounds ``value``: 0.2 for 0.20000000298."""
    return float(str(np.float32(value)))


@lru_cache(maxsize=256)
def _known(kind: str, attrs: tuple[tuple[str, Any], ...]) -> np.ndarray:
    if KINDS[kind].bounds:
        kind, attrs = "clamp", tuple(zip(("low", "high"), KINDS[kind].bounds or (), strict=True))
    with np.errstate(all="ignore"):
        return lookup.real(kind, dict(attrs), _PROBES)


def _agree(values: np.ndarray, known: np.ndarray) -> bool:
    """Whether two functions have the same values, and none where the other has none."""
    finite = np.isfinite(known)
    if not np.array_equal(finite, np.isfinite(values)):
        return False
    error = np.abs(values[finite] - known[finite])
    return bool((error <= _TOLERANCE * np.maximum(np.abs(known), np.abs(_PROBES))[finite]).all())
