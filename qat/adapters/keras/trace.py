"""Capture: a Functional or Sequential Keras 3 model, layer by layer, to the neutral graph's kinds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from qat.adapters.keras.elementwise import ARITHMETIC, OPERATIONS, arithmetic, negated_difference
from qat.adapters.keras.elementwise import activation as activation_kind
from qat.errors import CaptureError
from qat.geometry import same_padding
from qat.graph import FUNCTIONS, Graph, Op, TensorSpec
from qat.handlers import HANDLERS


@dataclass(frozen=True)
class Traced:
    """A captured model.

    Attributes:
        graph: the neutral graph, NHWC.
        params: every parameter that the graph's operators name, in Keras' layout.
        layers: the layer of every operator of kind ``float``, by operator name.
        frozen: parameters that are not trained.
        structure: the outputs by tensor name, nested as the model returns them.
        inputs: the inputs by tensor name, nested as the model takes them, and the tensor of each input layer's name.
        output_names: the model's own names of its outputs, by which losses may be given.
        calls: how the layer of each operator of kind ``float`` is called: arguments with :func:`placeholder` for tensors.
    """

    graph: Graph
    params: Mapping[str, np.ndarray]
    layers: Mapping[str, Any]
    frozen: frozenset[str]
    structure: Any
    inputs: tuple[Any, Mapping[str, str]]
    output_names: tuple[str, ...]
    calls: Mapping[str, tuple[Any, Any]]


def placeholder(index: int) -> str:
    """Return what stands for an operator's input ``index`` in the arguments of a call."""
    return f"@tensor:{index}"


def fill(arguments: Any, values: list[Any]) -> Any:
    """Return arguments with each placeholder replaced by its value."""
    if isinstance(arguments, dict):
        return {key: fill(value, values) for key, value in arguments.items()}
    if isinstance(arguments, (list, tuple)):
        return type(arguments)(fill(value, values) for value in arguments)
    if isinstance(arguments, str) and arguments.startswith("@tensor:"):
        return values[int(arguments.removeprefix("@tensor:"))]
    return arguments


def trace(model: keras.Model, example_inputs: Any = None) -> Traced:
    """Capture a model. ``example_inputs`` is not needed: a Keras model knows its shapes.

    Layers that only act in training (dropout, noise, augmentation) are left out.

    Raises:
        CaptureError: a subclassed model, a Sequential one without an input shape, or an image size that is not fixed.
    """
    return _Builder().build(model)


_TRAINING_ONLY = ("Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization")


class _Builder:
    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.specs: dict[str, TensorSpec] = {}
        self.params: dict[str, np.ndarray] = {}
        self.layers: dict[str, Any] = {}
        self.calls: dict[str, tuple[Any, Any]] = {}
        self.variables: dict[int, str] = {}
        self.frozen: set[str] = set()
        self.names: dict[int, str] = {}
        self.used: set[str] = set()

    def build(self, model: keras.Model) -> Traced:
        functional = _functional(model)
        inputs = []
        for tensor in functional.inputs:
            name = self.unique(tensor.name)
            self.names[id(tensor)] = name
            self.specs[name] = _spec(name, tensor)
            inputs.append(name)
        self.walk(functional, "")
        structure = keras.tree.map_structure(lambda t: self.names[id(t)], functional._outputs_struct)
        outputs = tuple(dict.fromkeys(keras.tree.flatten(structure)))
        graph = Graph(self.unique(model.name), "NHWC", tuple(inputs), outputs, tuple(self.ops), self.specs)
        taken = keras.tree.map_structure(lambda t: self.names[id(t)], functional._inputs_struct)
        by_name = {str(t.name): name for t, name in zip(functional.inputs, inputs, strict=True)}
        names = tuple(functional.output_names)
        return Traced(graph, self.params, self.layers, frozenset(self.frozen), structure, (taken, by_name), names, self.calls)

    def walk(self, functional: Any, scope: str) -> None:
        """Add the operators of a functional graph, whose inputs have names already."""
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    self.node(node, scope)

    def node(self, node: Any, scope: str) -> None:
        layer = node.operation
        path = f"{scope}{layer.name}"
        inputs = [self.names[id(t)] for t in node.arguments.keras_tensors]
        outputs = node.outputs
        if isinstance(layer, keras.Model):
            inner = _functional(layer)
            for tensor, name in zip(inner.inputs, inputs, strict=True):
                self.names[id(tensor)] = name
            self.walk(inner, f"{path}/")
            for mine, theirs in zip(outputs, inner.outputs, strict=True):
                self.names[id(mine)] = self.names[id(theirs)]
            return
        # A user's subclass may compute anything: only Keras' own classes are known by name.
        kind = type(layer).__name__ if type(layer).__module__.startswith("keras.") else ""
        if kind in _TRAINING_ONLY:
            self.names[id(outputs[0])] = inputs[0]
            return
        if len(outputs) == 1:
            rule = _RULES.get(kind)
            emitted: str | None
            handled = HANDLERS[type(layer)](layer) if type(layer) in HANDLERS else None
            if handled is not None:
                emitted = self.emit(handled.kind, inputs, outputs[0], path, handled.params, **handled.attrs)
            elif kind in ARITHMETIC and len(inputs) == 1:
                emitted = arithmetic(self, layer, node, outputs[0], path)
            else:
                emitted = rule(self, layer, inputs, outputs[0], path) if rule else None
            if emitted is not None:
                self.names[id(outputs[0])] = emitted
                return
        order = {id(t): placeholder(i) for i, t in enumerate(node.arguments.keras_tensors)}
        arguments = (list(node.arguments.args), dict(node.arguments.kwargs))
        call = keras.tree.map_structure(lambda v: order.get(id(v), v), arguments)
        moves = len(inputs) == len(outputs) == 1 and kind in MOVES and _is_move(layer)
        self.keep("move" if moves else "float", layer, inputs, outputs, path, call)

    def emit(
        self, kind: str, inputs: list[str], output: Any, path: str, params: Mapping[str, Any] | None = None, **attrs: Any
    ) -> str:
        """Add an operator whose output has the shape of ``output`` (a KerasTensor or a shape), and return its name."""
        name = self.unique(f"{path}_{kind}" if kind in ("relu", "relu6") or kind in FUNCTIONS else path)
        self.specs[name] = _spec(name, output)
        named = {role: self.param(variable, path) for role, variable in (params or {}).items() if variable is not None}
        self.ops.append(Op(name, kind, tuple(inputs), (name,), named, attrs, path))
        return name

    def keep(self, kind: str, layer: Any, inputs: list[str], outputs: Any, path: str, call: tuple[Any, Any]) -> None:
        """Add an operator that keeps its layer: ``float`` or a ``move``."""
        name = self.unique(path)
        names = []
        for index, tensor in enumerate(outputs):
            out = name if index == 0 else self.unique(f"{path}_{index}")
            self.specs[out] = _spec(out, tensor)
            self.names[id(tensor)] = out
            names.append(out)
        self.layers[name], self.calls[name] = layer, call
        self.ops.append(Op(name, kind, tuple(inputs), tuple(names), {}, {"target": type(layer).__name__}, path))

    def constant(self, value: np.ndarray, path: str) -> str:
        """Add an array that takes part as an activation does, and return its name."""
        name = self.unique(f"{path}_constant")
        self.params[name] = value
        self.frozen.add(name)
        self.specs[name] = _spec(name, value.shape)
        self.ops.append(Op(name, "constant", (), (name,), {"value": name}, {}, path))
        return name

    def param(self, variable: Any, path: str) -> str:
        # Nested models may hold different variables of one path, and one variable may be read by several layers.
        name = self.variables.get(id(variable))
        if name is None:
            name = str(variable.path)
            if name in self.params:
                name = f"{path}/{variable.name}"
            candidate, n = name, 1
            while name in self.params:
                name, n = f"{candidate}_{n}", n + 1
            self.variables[id(variable)] = name
        self.params[name] = np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
        if not variable.trainable:
            self.frozen.add(name)
        return name

    def unique(self, name: str) -> str:
        base = re.sub(r"\W", "_", name)
        candidate, n = base, 1
        while candidate in self.used:
            candidate, n = f"{base}_{n}", n + 1
        self.used.add(candidate)
        return candidate


#: Layers and operations that only move values about.
MOVES = {
    *(
        "Permute",
        "Cropping1D",
        "Cropping2D",
        "UpSampling1D",
        "UpSampling2D",
        "RepeatVector",
        "GlobalMaxPooling1D",
        "GlobalMaxPooling2D",
    ),
    *("Transpose", "GetItem", "Flip", "Roll", "ExpandDims", "Squeeze", "Max", "Repeat", "Tile", "Swapaxes", "Moveaxis"),
}


def _is_move(layer: Any) -> bool:
    return getattr(layer, "interpolation", "nearest") == "nearest" and getattr(layer, "initial", None) is None


def _functional(model: keras.Model) -> Any:
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise CaptureError(f"Sequential model '{model.name}' has no input shape: add keras.Input(shape) as its first layer")
        return model._functional
    # A subclass that is built as Functional(inputs, outputs) but computes something else in call is no graph either.
    if hasattr(model, "_nodes_by_depth") and type(model).call.__module__.startswith("keras."):
        return model
    layers = ", ".join(layer.name for layer in model.layers[:4])
    raise CaptureError(
        f"'{model.name}' ({type(model).__name__}) is a subclassed model, whose graph Keras does not record (layers: {layers}): "
        "rebuild it as keras.Model(inputs, outputs), or prepare its functional part"
    )


def _spec(name: str, tensor: Any) -> TensorSpec:
    shape = tuple(tensor) if isinstance(tensor, (tuple, list)) else tuple(tensor.shape)
    return TensorSpec(name, shape, "float32" if isinstance(tensor, (tuple, list)) else str(tensor.dtype))


# --- the table: one function a layer -----------------------------------------------------------------------------------
# Each returns the name of its output tensor, or None for a layer that this adapter leaves float.


def _activation(b: _Builder, name: str, activation: Any, output: Any, path: str) -> str | None:
    kind = getattr(activation, "__name__", "linear")
    if kind == "linear":
        return name
    known = activation_kind(b, name, activation, output, path)
    if known is not None:
        return known
    layer = keras.layers.Activation(activation, name=f"{path.replace('/', '_')}_{kind}")
    out = b.unique(f"{path}_{kind}")
    b.specs[out] = _spec(out, output)
    b.layers[out], b.calls[out] = layer, ([placeholder(0)], {})
    b.ops.append(Op(out, "float", (name,), (out,), {}, {"target": kind}, path))
    return out


def _padding(layer: Any, spec: TensorSpec, window: tuple[int, int], strides: tuple[int, int], path: str) -> Any:
    if layer.padding == "valid":
        return ((0, 0), (0, 0))
    if layer.padding != "same":
        return None
    both = same_padding(spec.shape[1:3], window, strides)
    if both is None:
        raise CaptureError(f"{path}: padding 'same' needs a fixed image size: give keras.Input(shape=(height, width, channels))")
    return both


def _first(b: _Builder, layer: Any, path: str, inputs: list[str]) -> tuple[Any, Any, Any]:
    """Return the padding, strides and dilations of a convolution (None for a padding it does not know)."""
    strides, dilations = tuple(layer.strides), tuple(layer.dilation_rate)
    window = tuple((k - 1) * d + 1 for k, d in zip(layer.kernel_size, dilations, strict=True))
    return _padding(layer, b.specs[inputs[0]], window, strides, path), strides, dilations


def _conv2d(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last" or layer.groups != 1:
        return None
    padding, strides, dilations = _first(b, layer, path, inputs)
    if padding is None:
        return None
    params = {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}
    name = b.emit(
        "conv2d", inputs, output, path, params, strides=strides, padding=padding, dilations=dilations, groups=1, channel_axis=3
    )
    return _activation(b, name, layer.activation, output, path)


def _conv_transpose(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last" or tuple(layer.dilation_rate) != (1, 1) or getattr(layer, "groups", 1) != 1:
        return None
    strides, kernel = tuple(layer.strides), tuple(layer.kernel_size)
    extra = layer.output_padding if isinstance(layer.output_padding, (tuple, list)) else (layer.output_padding,) * 2
    cuts = tuple(_cut(layer.padding, k, s, more) for k, s, more in zip(kernel, strides, extra, strict=True))
    params = {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}
    name = b.emit(
        "conv_transpose2d", inputs, output, path, params,
        strides=strides, padding=cuts, dilations=(1, 1), groups=1, channel_axis=2,
    )  # fmt: skip
    return _activation(b, name, layer.activation, output, path)


def _cut(padding: str, kernel: int, stride: int, extra: int | None) -> tuple[int, int]:
    """Return what a transposed convolution leaves out on each side of ``stride * (size - 1) + kernel`` places."""
    if padding == "valid":
        total = -extra if extra is not None else min(kernel - stride, 0)
        return 0, total
    total = kernel - stride if extra is None else 2 * (kernel // 2) - extra
    return max(total, 0) // 2, total - max(total, 0) // 2


def _depthwise(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last":
        return None
    padding, strides, dilations = _first(b, layer, path, inputs)
    if padding is None or (max(dilations) > 1 and max(strides) > 1):
        return None
    params = {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}
    channels = b.specs[inputs[0]].shape[-1]
    name = b.emit(
        "depthwise_conv2d", inputs, output, path, params,
        strides=strides, padding=padding, dilations=dilations, groups=channels, channel_axis=(2, 3),
    )  # fmt: skip
    return _activation(b, name, layer.activation, output, path)


def _separable(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last":
        return None
    padding, strides, dilations = _first(b, layer, path, inputs)
    if padding is None or (max(dilations) > 1 and max(strides) > 1):
        return None
    channels = b.specs[inputs[0]].shape[-1]
    between = (*output.shape[:-1], layer.depthwise_kernel.shape[2] * layer.depthwise_kernel.shape[3])
    name = b.emit(
        "depthwise_conv2d", inputs, between, path, {"weight": layer.depthwise_kernel},
        strides=strides, padding=padding, dilations=dilations, groups=channels, channel_axis=(2, 3),
    )  # fmt: skip
    params = {"weight": layer.pointwise_kernel, "bias": layer.bias if layer.use_bias else None}
    name = b.emit(
        "conv2d", [name], output, path, params,
        strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1), groups=1, channel_axis=3,
    )  # fmt: skip
    return _activation(b, name, layer.activation, output, path)


def _dense(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    params = {"weight": layer.kernel, "bias": layer.bias if layer.use_bias else None}
    name = b.emit("dense", inputs, output, path, params, channel_axis=1)
    return _activation(b, name, layer.activation, output, path)


def _batch_norm(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    rank = len(output.shape)
    if layer.axis not in (-1, rank - 1):
        return None
    params = {"gamma": layer.gamma, "beta": layer.beta, "mean": layer.moving_mean, "variance": layer.moving_variance}
    return b.emit("batch_norm", inputs, output, path, params, epsilon=float(layer.epsilon), axis=rank - 1)


def _binary(kind: str) -> Callable[..., str | None]:
    def rule(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
        if any(len(b.specs[n].shape) != len(output.shape) for n in inputs) or len(inputs) < 2:
            return None
        name = inputs[0]
        for other in inputs[1:]:
            name = b.emit(kind, [name, other], _broadcast(b.specs[name].shape, b.specs[other].shape), path)
        return name

    return rule


def _broadcast(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


def _concat(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    return b.emit("concat", inputs, output, path, axis=layer.axis % len(output.shape))


def _relu(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.threshold or layer.max_value not in (None, 6) or (layer.negative_slope and layer.max_value):
        return None
    if layer.negative_slope:
        return b.emit("leaky_relu", inputs, output, path, alpha=float(layer.negative_slope))
    return b.emit("relu6" if layer.max_value else "relu", inputs, output, path)


def _activation_layer(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    return activation_kind(b, inputs[0], layer.activation, output, path)


def _pool(kind: str) -> Callable[..., str | None]:
    def rule(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
        if layer.data_format != "channels_last":
            return None
        kernel, strides = tuple(layer.pool_size), tuple(layer.strides)
        padding = _padding(layer, b.specs[inputs[0]], kernel, strides, path)
        return b.emit(kind, inputs, output, path, kernel=kernel, strides=strides, padding=padding)

    return rule


def _global_pool(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last":
        return None
    return b.emit("mean", inputs, output, path, axes=(1, 2), keepdims=bool(layer.keepdims))


def _reshape(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if any(d is None for d in output.shape[1:]):
        return None
    return b.emit("reshape", inputs, output, path, shape=(-1, *(int(d) for d in output.shape[1:])))


def _zero_padding(b: _Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    if layer.data_format != "channels_last":
        return None
    return b.emit("pad", inputs, output, path, padding=tuple(tuple(int(n) for n in side) for side in layer.padding))


_RULES: dict[str, Callable[..., str | None]] = {
    "Conv2D": _conv2d,
    "Conv2DTranspose": _conv_transpose,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "Add": _binary("add"),
    "Multiply": _binary("mul"),
    "Concatenate": _concat,
    "ReLU": _relu,
    "Activation": _activation_layer,
    "Subtract": negated_difference,
    **OPERATIONS,
    "MaxPooling2D": _pool("max_pool2d"),
    "AveragePooling2D": _pool("avg_pool2d"),
    "GlobalAveragePooling2D": _global_pool,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "ZeroPadding2D": _zero_padding,
}
