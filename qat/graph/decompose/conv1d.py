"""Signals of one dimension, written as images of height 1: the runtimes' kernels take images.

An adapter traces a convolution or a pooling of signals as the operator of images, on tensors of rank 3, with attributes of one
axis: ``strides`` is ``(length,)``, ``padding`` is ``((first, last),)``. Here such an operator gets the axis of height, of size 1,
and reads and writes images: a reshape adds the axis to its input, another takes the axis from its output. An operator element by
element that reads such an image stays on images, so that a convolution meets its BatchNorm and its activation; the reshapes
between two operators of images are dropped. A weight keeps the shape that the user gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..graph import Graph, Op
from ..kinds import KINDS
from .draft import Draft

#: What an attribute of windows holds for the axis of height.
_OF_HEIGHT: Mapping[str, Any] = {"strides": 1, "dilations": 1, "kernel": 1, "factors": 1, "padding": (0, 0)}

#: The axis of height in an image.
_HEIGHT = {"NCHW": 2, "NHWC": 1}


def signals_as_images(graph: Graph) -> Graph:
    """Return the graph with every operator of signals written as one of images of height 1.

    Args:
        graph: as traced, BatchNorm not folded yet.
    """
    return _Rewriter(graph).rewritten()


class _Rewriter(Draft):
    """Writes the operators of signals on images.

    Attributes:
        images: the image of each signal, as far as it exists.
        borders: the names of the reshapes between signals and images.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.height = _HEIGHT[graph.layout]
        self.producers = graph.producers()
        self.images: dict[str, str] = {}
        self.borders: set[str] = set()

    def rewritten(self) -> Graph:
        for op in self.graph.ops:
            if self.takes_images(op):
                self.on_images(op)
            else:
                self.ops.append(op)
        read = {*self.graph.outputs, *(name for op in self.ops for name in op.inputs)}
        self.ops = [op for op in self.ops if op.name not in self.borders or op.output in read]
        return self.finished()

    def takes_images(self, op: Op) -> bool:
        """Whether an operator of signals is to read images."""
        kind, signals = KINDS[op.kind], [name for name in op.inputs if not self.is_number(name)]
        if not signals or not all(map(self.is_signal, signals)):
            return False
        if kind.layout == "axes":
            return [a % 3 for a in op.attrs["axes"]] == [self.height]
        if op.kind == "batch_norm":
            return op.attrs["axis"] == (1 if self.graph.layout == "NCHW" else 2) and not self.follows_dense(op)
        follows = kind.layout == "either" and any(name in self.images for name in signals)
        return kind.spatial == 2 or follows

    def is_signal(self, name: str) -> bool:
        spec = self.tensors[name]
        constant = name in self.producers and self.producers[name].kind == "constant"
        known = bool(spec.example) or spec.shape.count(None) <= 1
        return len(spec.shape) == 3 and spec.dtype == "float32" and known and not constant

    def is_number(self, name: str) -> bool:
        return self.tensors[name].shape == () and name not in self.graph.inputs

    def follows_dense(self, op: Op) -> bool:
        """Whether a BatchNorm can be folded into the fully connected layer before it, which has no image."""
        layer = self.producers.get(op.inputs[0])
        return layer is not None and layer.kind == "dense" and self.graph.layout == "NHWC"

    def on_images(self, op: Op) -> None:
        """Write an operator on the images of its signals."""
        inputs = tuple(name if self.is_number(name) else self.image_of(name, op.scope) for name in op.inputs)
        made = replace(op, inputs=inputs, attrs=self.attrs_of(op))
        if len(self.tensors[op.output].shape) != 3:  # a mean without the axis of length
            self.ops.append(made)
            return
        image = self.add_image(op.output)
        self.ops.append(replace(made, outputs=(image,)))
        self.borders.add(self.reshape(image, op.output, op.scope))

    def attrs_of(self, op: Op) -> dict[str, Any]:
        """Return an operator's attributes for images: windows with an entry for the height, and axes after it one further."""
        attrs: dict[str, Any] = {}
        for name, value in op.attrs.items():
            if name in _OF_HEIGHT:
                attrs[name] = (_OF_HEIGHT[name], *value)
            elif name == "axes":
                attrs[name] = (self.height, self.height + 1)
            elif name == "axis":
                attrs[name] = value + (value >= self.height)
            else:
                attrs[name] = value
        return attrs

    def image_of(self, signal: str, scope: str) -> str:
        """Return the image of a signal, and add it where there is none yet."""
        if signal not in self.images:
            image = self.add_image(signal)
            self.borders.add(self.reshape(signal, image, scope))
        return self.images[signal]

    def add_image(self, signal: str) -> str:
        """Add the tensor of a signal's image."""
        spec = self.tensors[signal]
        self.images[signal] = self.add_tensor(f"{signal}_image", self.with_height(spec.shape), self.with_height(spec.example))
        return self.images[signal]

    def with_height(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*shape[: self.height], 1, *shape[self.height :]) if shape else ()
