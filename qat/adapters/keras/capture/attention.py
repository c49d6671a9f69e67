"""Attention in a Keras model: its layers and operations become dense layers, products of two activations and softmaxes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import keras

from qat.graph.einsum import as_dense, as_product

from .layer_calls import placeholder

if TYPE_CHECKING:
    from .trace import Builder

Shape = tuple[int | None, ...]


def embedding(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """Rows of a weight; one whose mask other layers read keeps its layer."""
    if layer.mask_zero or type(layer).__name__ != "Embedding" or getattr(layer, "lora_enabled", False):
        return None
    return b.emit("embedding", inputs, output, path, {"weight": layer.embeddings})


def softmax(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """A softmax over the last axis, without a mask."""
    rank = len(output.shape)
    if len(inputs) != 1 or not isinstance(layer.axis, int) or layer.axis % rank != rank - 1 or (output.shape[-1] or 1) == 1:
        return None
    return b.emit("softmax", inputs, output, path, beta=1.0)


def einsum_dense(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """A dense layer over several axes: the axes that it sums, and those that it makes, are merged."""
    from .rules import activated

    (source,), shape = inputs, tuple(output.shape)
    count = as_dense(layer.equation)
    kernel = tuple(layer.kernel.shape)
    if count is None or (layer.bias is not None and tuple(layer.bias.shape) != kernel[count:]):
        return None
    if any(d is None for d in (*b.specs[source].shape[1:], *shape[1:])) or len(b.specs[source].shape) <= count:
        return None
    kept = b.specs[source].shape[:-count]
    summed, made = _size(kernel[:count]), _size(kernel[count:])
    if count > 1:
        source = b.reshape(source, (*kept, summed), f"{path}_merged", path)
    params = {"weight": layer.kernel, "bias": layer.bias}
    axes = tuple(range(count, len(kernel)))
    name = b.emit("dense", [source], (*kept, made), path, params, channel_axis=axes if len(axes) > 1 else axes[0])
    if len(axes) > 1:
        name = b.reshape(name, shape, f"{path}_split", path)
    return activated(b, name, layer.activation, output, path)


def _size(shape: Shape) -> int:
    size = 1
    for n in shape:
        size *= n or 1
    return size


def matmul(b: Builder, layer: Any, node: Any, output: Any, path: str) -> str | None:
    """``keras.ops.matmul`` of two tensors."""
    inputs = [b.names[id(t)] for t in node.arguments.keras_tensors]
    fits = len(inputs) == 2 and all(len(b.specs[n].shape) >= 2 and b.specs[n].dtype == "float32" for n in inputs)
    return b.emit("matmul", inputs, output, path, transpose_b=False) if fits else None


def einsum(b: Builder, layer: Any, node: Any, output: Any, path: str) -> str | None:
    """``keras.ops.einsum`` that is a product of two permuted tensors, whose batch stays first."""
    inputs = [b.names[id(t)] for t in node.arguments.keras_tensors]
    found = as_product(layer.subscripts) if len(inputs) == 2 else None
    if found is None or any(axes[0] for axes in (found.a, found.b, found.result)):
        return None
    if any(b.specs[n].dtype != "float32" for n in inputs):
        return None
    left, right = (permuted(b, name, axes, path) for name, axes in zip(inputs, (found.a, found.b), strict=True))
    shape = tuple(output.shape)
    made = tuple(shape[found.result.index(i)] for i in range(len(shape)))
    return permuted(b, b.emit("matmul", [left, right], made, path, transpose_b=found.transposed), found.result, path)


def permuted(b: Builder, name: str, axes: tuple[int, ...], path: str) -> str:
    """Add a permutation of the axes after the batch, where there is one, and return the tensor's name."""
    if axes == tuple(range(len(axes))):
        return name
    shape = tuple(b.specs[name].shape[a] for a in axes)
    tensor = keras.KerasTensor(shape, "float32")
    b.keep("move", keras.layers.Permute(axes[1:]), [name], [tensor], f"{path}_permuted", ([placeholder(0)], {}))
    return b.names[id(tensor)]


def multi_head_attention(b: Builder, layer: Any, node: Any, output: Any, path: str) -> str | None:
    """``MultiHeadAttention`` on sequences, without a mask: one with a mask keeps its layer."""
    called: Any = inspect.signature(type(layer).call).bind(layer, *node.arguments.args, **node.arguments.kwargs).arguments
    bound = {name: value for name, value in called.items() if value is not None and value is not False}
    if set(bound) - {"self", "query", "value", "key", "training"} or b.has_masks or not _is_plain(layer):
        return None
    query, value, key = bound["query"], bound["value"], bound.get("key", bound["value"])
    if any(len(t.shape) != 3 or None in t.shape[1:] or str(t.dtype) != "float32" for t in (query, value, key)):
        return None
    if key.shape[1] == 1:  # a softmax of one element
        return None
    heads = []
    for tensor, dense in ((query, layer._query_dense), (key, layer._key_dense), (value, layer._value_dense)):
        shape = (*tensor.shape[:2], *dense.kernel.shape[1:])  # [batch, length, heads, size of a head]
        name = einsum_dense(b, dense, [b.names[id(tensor)]], keras.KerasTensor(shape, "float32"), f"{path}/{dense.name}")
        if name is None:
            return None
        heads.append(permuted(b, name, (0, 2, 1, 3), path))
    batch, length, _ = query.shape
    scores: Shape = (batch, layer.num_heads, length, key.shape[1])
    name = b.emit("matmul", heads[:2], scores, f"{path}/scores", transpose_b=True)
    name = b.emit("softmax", [name], scores, f"{path}/softmax", beta=float(layer._inverse_sqrt_key_dim))
    result: Shape = (*scores[:3], layer._value_dim)
    name = permuted(b, b.emit("matmul", [name, heads[2]], result, f"{path}/values", transpose_b=False), (0, 2, 1, 3), path)
    return einsum_dense(b, layer._output_dense, [name], output, f"{path}/{layer._output_dense.name}")


def _is_plain(layer: Any) -> bool:
    """Whether a layer is the attention of Vaswani et al. 2017 on the only axis of a sequence."""
    others = ("_use_gate", "_sliding_window")
    return tuple(layer._attention_axes) == (1,) and not any(getattr(layer, name, None) for name in others)


#: Rules that look at how a layer is called.
CALLS = {"MultiHeadAttention": multi_head_attention, "Matmul": matmul, "Einsum": einsum}
