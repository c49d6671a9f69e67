"""Random small graphs, free of any framework: hypothesis draws a :class:`Spec`, ``torch_model`` and ``keras_model`` build it.

A value is a map (channels, height, width), a row of tokens (tokens, width) or a vector (width,), without the batch. A step takes
values drawn before it, so that any directed acyclic graph may arise: branches, joins, several inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from support.machine import EIGHT_BITS_ARE_EXACT

Shape = tuple[int, ...]
ACTIVATIONS = (
    "relu", "relu6", "hard_swish", "silu", "sigmoid", "tanh", "gelu", "leaky_relu", "hard_sigmoid", "elu", "softplus",
)  # fmt: skip

#: How many different tokens there are.
VOCABULARY = 10
#: How a weight is computed from its parameters.
COMPUTED = (None, None, None, "weight_norm", "spectral_norm", "standardized", "pruned")
MASKS = (None, None, "causal", "hidden", "added")
#: Steps whose layer may be called again on another value.
LAYERS = ("conv", "depthwise", "dense")

TARGETS = ("onnxruntime", "litert", *(["onnxruntime_vnni"] if EIGHT_BITS_ARE_EXACT else []))


@dataclass(frozen=True)
class Step:
    """One operator: the indices of the values it takes, and its options."""

    op: str
    sources: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A graph: shapes of all values (the inputs' first), the steps that make the others, the indices of the outputs; a target."""

    inputs: int
    shapes: tuple[Shape, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    seed: int
    target: str
    ids: bool = False  # whether the last input holds the ids of tokens, which the first step alone reads


def _divisor(draw: Any, number: int) -> int:
    return draw(st.sampled_from([d for d in (1, 2, 3, 4, 8) if number % d == 0]))


def _spatial(size: int, kernel: int, stride: int, dilation: int, same: bool) -> int:
    return -(-size // stride) if same else (size - dilation * (kernel - 1) - 1) // stride + 1


def _window(draw: Any, shape: Shape, dilations: tuple[int, ...] = (1,)) -> tuple[dict[str, Any], tuple[int, int]] | None:
    """Draw a window and return its options and the height and width it leaves, None where they are not positive."""
    kernel, stride = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 1, 2]))
    dilation = draw(st.sampled_from(dilations)) if stride == 1 else 1
    same = kernel % 2 == 1 and draw(st.booleans())
    height, width = (_spatial(s, kernel, stride, dilation, same) for s in shape[1:])
    options = {"kernel": kernel, "stride": stride, "dilation": dilation, "same": same}
    return (options, (height, width)) if min(height, width) > 0 else None


def _conv(draw: Any, shape: Shape) -> Any:
    window = _window(draw, shape, (1, 1, 2))
    if window is None:
        return None
    groups = _divisor(draw, shape[0])
    filters = groups * draw(st.sampled_from([1, 2, 3]))
    extra = {"groups": groups, "filters": filters, "bias": draw(st.booleans()), "norm": draw(st.booleans())}
    return {**window[0], **extra, **_inner(draw), "act": _activation(draw)}, (filters, *window[1])


def _inner(draw: Any) -> dict[str, Any]:
    """Draw how a weight is computed, and whether the layer stands within a layer of one's own."""
    return {"computed": draw(st.sampled_from(COMPUTED)), "nested": draw(st.sampled_from([False, False, True]))}


def _constant(draw: Any, shape: Shape) -> Any:
    """Draw an operator whose other operand is computed from constants alone."""
    return {"how": draw(st.sampled_from(["add", "mul"])), "whole": draw(st.booleans())}, shape


def _depthwise(draw: Any, shape: Shape) -> Any:
    window = _window(draw, shape)
    if window is None:
        return None
    return {**window[0], "bias": draw(st.booleans()), "norm": draw(st.booleans()), "act": _activation(draw)}, (
        shape[0], *window[1],
    )  # fmt: skip


def _conv_transpose(draw: Any, shape: Shape) -> Any:
    filters, kernel = draw(st.sampled_from([2, 4])), draw(st.sampled_from([2, 3]))
    return {"filters": filters, "kernel": kernel}, (filters, *(2 * (s - 1) + kernel for s in shape[1:]))


def _pool(draw: Any, shape: Shape) -> Any:
    window = _window(draw, shape)
    return None if window is None else (window[0], (shape[0], *window[1]))


def _activation(draw: Any) -> str | None:
    return draw(st.sampled_from((None, "relu", "relu6", *ACTIVATIONS)))


def _pad(draw: Any, shape: Shape) -> Any:
    top, bottom, left, right = (draw(st.integers(0, 2)) for _ in range(4))
    return {"padding": ((top, bottom), (left, right))}, (shape[0], shape[1] + top + bottom, shape[2] + left + right)


def _crop(draw: Any, shape: Shape) -> Any:
    start = draw(st.integers(0, shape[0] - 1))
    top = draw(st.integers(0, shape[1] - 1))
    return {"channel": start, "top": top}, (shape[0] - start, shape[1] - top, shape[2])


def _dense(draw: Any, shape: Shape) -> Any:
    units = draw(st.sampled_from([1, 3, 8]))
    return {"units": units, "bias": draw(st.booleans()), **_inner(draw), "act": _activation(draw)}, (*shape[:-1], units)


def _any(draw: Any, shape: Shape) -> Any:
    return {"act": draw(st.sampled_from(ACTIVATIONS))}, shape


#: Operators of one value by its rank: each draws ``(options, shape of the result)``, or None where it does not fit.
UNARY: dict[int, dict[str, Callable[[Any, Shape], Any]]] = {
    3: {
        "conv": _conv,
        "depthwise": _depthwise,
        "conv_transpose": _conv_transpose,
        "max_pool": _pool,
        "avg_pool": _pool,
        "activation": _any,
        "constant": _constant,
        "squeeze_excite": lambda draw, s: ({"squeezed": draw(st.sampled_from([1, 4]))}, s),
        "pad": _pad,
        "crop": _crop,
        "upsample": lambda draw, s: ({}, (s[0], 2 * s[1], 2 * s[2])) if s[1] <= 8 else None,
        "mean": lambda draw, s: ({}, (s[0],)),
        "flatten": lambda draw, s: ({}, (s[0] * s[1] * s[2],)) if s[0] * s[1] * s[2] <= 400 else None,
        "tokens": lambda draw, s: ({}, (s[1] * s[2], s[0])) if s[1] * s[2] <= 36 else None,
        "transpose": lambda draw, s: ({}, (s[0], s[2], s[1])),
    },
    2: {
        "dense": _dense,
        "activation": _any,
        "attention": lambda draw, s: ({"key": draw(st.sampled_from([2, 4])), "mask": draw(st.sampled_from(MASKS))}, s),
        "constant": _constant,
        "norm": lambda draw, s: ({}, s),
        "mean": lambda draw, s: ({}, (s[1],)),
        "flatten": lambda draw, s: ({}, (s[0] * s[1],)),
    },
    1: {"dense": _dense, "activation": _any},
}


@st.composite
def specs(draw: Any) -> Spec:
    """Draw a graph of one or two inputs and two to seven steps; the ids of tokens may be an input besides."""
    inputs = draw(st.sampled_from([1, 1, 2]))
    size = draw(st.sampled_from([(5, 5), (6, 8), (7, 4)]))
    shapes: list[Shape] = [(draw(st.sampled_from([1, 2, 3, 4, 8])), *size) for _ in range(inputs)]
    steps: list[Step] = []
    ids = draw(st.sampled_from([False, False, False, True]))
    if ids:
        length, width = draw(st.sampled_from([4, 7])), draw(st.sampled_from([4, 8]))
        steps.append(Step("embedding", (inputs,), {"width": width}))
        shapes += [(length,), (length, width)]
        inputs += 1
    for _ in range(draw(st.integers(2, 7))):
        at = len(shapes) - 1 - draw(st.integers(0, min(3, len(shapes) - 1)))
        if ids and at == inputs - 1:
            at = inputs
        join = draw(st.sampled_from([None, None, "add", "mul", "concat", "again"]))
        if join == "again":
            drawn = _again(draw, at, shapes, steps, inputs)
        else:
            drawn = _join(draw, join, at, shapes, inputs - 1 if ids else None) if join else None
        if drawn is None:
            table = UNARY[len(shapes[at])]
            op = draw(st.sampled_from(list(table)))
            found = table[op](draw, shapes[at])
            options, shape = found or _any(draw, shapes[at])
            drawn = Step(op if found else "activation", (at,), options), shape
        steps.append(drawn[0])
        shapes.append(drawn[1])
    made = range(inputs, len(shapes))
    outputs = [len(shapes) - 1]
    if draw(st.booleans()):
        other = draw(st.sampled_from(list(made)))
        outputs += [other] if other not in outputs else []
    seed, target = draw(st.integers(0, 2**16)), draw(st.sampled_from(TARGETS))
    return Spec(inputs, tuple(shapes), tuple(steps), tuple(outputs), seed, target, ids)


def _again(draw: Any, at: int, shapes: list[Shape], steps: list[Step], inputs: int) -> tuple[Step, Shape] | None:
    """Draw a layer that is there already and takes such a value, to be called once more; None where there is none."""
    fits = [i for i, step in enumerate(steps) if step.op in LAYERS and shapes[step.sources[0]] == shapes[at]]
    if not fits:
        return None
    of = draw(st.sampled_from(fits))
    return Step("again", (at,), {"of": of}), shapes[inputs + of]


def _join(draw: Any, op: str, at: int, shapes: list[Shape], without: int | None) -> tuple[Step, Shape] | None:
    """Draw a partner for a value: of the same shape for an addition or product, of the same places for a concatenation."""
    first = shapes[at]
    if op == "concat":
        places = slice(1, None) if len(first) == 3 else slice(None, -1)
        fits = [i for i, s in enumerate(shapes) if len(s) == len(first) and s[places] == first[places]]
    else:
        fits = [i for i, s in enumerate(shapes) if s == first]
    other = draw(st.sampled_from([i for i in fits if i != without]))
    if op != "concat":
        return Step(op, (at, other)), first
    axis = 0 if len(first) == 3 else len(first) - 1
    return Step(op, (at, other)), tuple(d + shapes[other][i] if i == axis else d for i, d in enumerate(first))


def used_inputs(spec: Spec) -> set[int]:
    """Return the inputs that the outputs depend on."""
    needed, made = set(spec.outputs), {spec.inputs + i: step for i, step in enumerate(spec.steps)}
    for index in sorted(made, reverse=True):
        if index in needed:
            needed.update(made[index].sources)
    return {i for i in needed if i < spec.inputs}
