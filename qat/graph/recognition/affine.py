"""Factors and shifts of channels: they become one BatchNorm, which is folded into the layer before it, or is one kernel.

``(x - mean) / deviation * gamma + beta`` with constants of one number a channel is ``factor x + shift``. Factors and shifts that
are trained take part behind fixed ones of each channel: they are those of a BatchNorm. Others keep a kernel of their own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from ..computed_weights import is_computed
from ..graph import Op
from ..kinds import KINDS
from .sheet import Sheet


@dataclass(frozen=True)
class _Link:
    """A product or a sum with a constant of one number a channel, or of one number in all; a negation is a product with -1."""

    op: Op
    source: str
    constant: str = ""


def join_biases(sheet: Sheet) -> None:
    """Make the trained shift of channels that follows a layer without a bias, ``x @ w + b``, the layer's bias.

    As a kernel of its own it would have a grid of its own, which has no step where the shift begins at zero.
    """
    uses: Counter[str] = Counter()
    for op in sheet.ops.values():
        readers = len(sheet.readers.get(op.output, ())) if op.kind == "constant" else 1
        uses.update(dict.fromkeys(op.params.values(), readers))
    for layer in sheet:
        roles = KINDS[layer.kind].params
        if "bias" not in roles or "bias" in layer.params or uses[layer.params["weight"]] > 1 or not sheet.admits(layer):
            continue
        axis = _channel_axis(sheet, layer.output, dense=not KINDS[layer.kind].spatial)
        after = sheet.readers.get(layer.output, [])
        alone = len(after) == 1 and layer.output not in sheet.graph.outputs
        link = _link(sheet, after[0], layer.output, axis) if alone and after[0].kind == "add" else None
        name = sheet.parameter(link.constant) if link is not None else None
        if link is None or name is None or name in sheet.fixed or uses[name] > 1 or is_computed(sheet.params, name):
            continue
        if sheet.params[name].shape == (sheet.tensors[layer.output].shape[axis],):
            sheet.replace(link.op, replace(layer, outputs=link.op.outputs, params={**layer.params, "bias": name}))


def fold_affine(sheet: Sheet) -> None:
    """Write the factors and shifts that follow a layer as a BatchNorm of it."""
    # A BatchNorm is not folded into a weight that is an embedding, too.
    vectors = {name for op in sheet if not KINDS[op.kind].linear for name in op.params.values()}
    for layer in sheet:
        if KINDS[layer.kind].linear and layer.name in sheet.ops and layer.params["weight"] not in vectors:
            axis = _channel_axis(sheet, layer.output, dense=not KINDS[layer.kind].spatial)
            _write(sheet, _chain(sheet, layer.output, axis), axis)


def merge_affine(sheet: Sheet) -> None:
    """Write several factors and shifts of an image as one BatchNorm."""
    for op in sheet:
        if len(sheet.tensors[op.output].shape) == 4 and len(sheet.sources(op)) == 1:
            axis = _channel_axis(sheet, op.output, dense=False)
            links = _chain(sheet, sheet.sources(op)[0], axis, first=op)
            if len(links) > 1:
                _write(sheet, links, axis)


def _channel_axis(sheet: Sheet, tensor: str, dense: bool) -> int:
    rank = len(sheet.tensors[tensor].shape)
    return 1 if sheet.graph.layout == "NCHW" and not dense else rank - 1


def _chain(sheet: Sheet, source: str, axis: int, first: Op | None = None) -> list[_Link]:
    """Return the products and sums with constants that follow a tensor, one after the other, each read by the next one alone."""
    links: list[_Link] = []
    of_channels = False
    while True:
        readers = sheet.readers.get(source, [])
        alone = len(readers) == 1 and source not in sheet.graph.outputs
        op = first if first is not None and not links else readers[0] if alone else None
        link = _link(sheet, op, source, axis) if op is not None else None
        if link is None:
            return links
        if link.constant:
            fixed = sheet.array(link.constant)
            if fixed is None and not of_channels:
                return links
            of_channels |= fixed is not None and fixed.size > 1
        links.append(link)
        source = link.op.output


def _link(sheet: Sheet, op: Op, source: str, axis: int) -> _Link | None:
    """Return an operator as a link of a chain; None where it is none."""
    spec = sheet.tensors[op.output]
    if not sheet.admits(op) or spec.shape != sheet.tensors[source].shape or spec.dtype != "float32" or spec.shape[axis] is None:
        return None
    if op.kind == "neg":
        return _Link(op, source)
    constants = [t for t in op.inputs if sheet.is_constant(t)]
    if op.kind not in ("add", "mul") or len(constants) != 1 or sheet.sources(op) != [source]:
        return None
    shape, rank = sheet.shape_of_constant(constants[0]), len(spec.shape)
    spread = (1,) * (rank - len(shape)) + shape
    of_channels = spread[axis] == spec.shape[axis] and all(n == 1 for a, n in enumerate(spread) if a != axis)
    return _Link(op, source, constants[0]) if of_channels or sheet.number(constants[0]) is not None else None


def _write(sheet: Sheet, links: list[_Link], axis: int) -> None:
    """Put a BatchNorm in the place of the last link."""
    if not links:
        return
    last = links[-1].op
    channels = sheet.tensors[last.output].shape[axis] or 1
    factor, shift, fixed = np.ones(channels), np.zeros(channels), True
    for link in links:
        name = sheet.parameter(link.constant)
        value = np.float64(-1.0) if name is None else np.asarray(sheet.params[name], np.float64).ravel()
        fixed &= name is None or name in sheet.fixed
        factor, shift = (factor, shift + value) if link.op.kind == "add" else (factor * value, shift * value)
    arrays = {"gamma": factor, "beta": shift, "mean": np.zeros(channels), "variance": np.ones(channels)}
    params = {role: _name(sheet, links, role, array, fixed) for role, array in arrays.items()}
    attrs = {"epsilon": 0.0, "axis": axis}
    sheet.replace(last, Op(last.name, "batch_norm", (links[0].source,), last.outputs, params, attrs, last.scope))


def _name(sheet: Sheet, links: list[_Link], role: str, value: np.ndarray, fixed: bool) -> str:
    """Return the name of a BatchNorm's parameter: that of the last factor or shift that is trained, if nothing else reads it."""
    kind = {"gamma": "mul", "beta": "add"}.get(role)
    names = [sheet.parameter(link.constant) for link in links if link.op.kind == kind]
    own = [
        name for name in names if name is not None and name not in sheet.fixed and not is_computed(sheet.params, name)
        and np.size(sheet.params[name]) == value.size
    ]  # fmt: skip
    uses = Counter(name for op in sheet.ops.values() for name in op.params.values())
    if own and uses[own[-1]] == 1:
        sheet.params[own[-1]] = value.astype(np.float32)
        return own[-1]
    return sheet.add_param(f"{links[-1].op.name}.{role}", value, fixed=fixed or kind is None)
