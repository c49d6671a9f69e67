"""The rules of attention: its layers and operations become dense layers, products of two activations and softmaxes."""

from __future__ import annotations

import inspect
import math
from typing import Any

import keras
import numpy as np
from keras.src.ops.core import Cast

from qat.graph.einsum import DenseSum, as_dense_sum, as_product, spelled_out

from .activations import activated
from .attention_masks import causal, cleared, hides_rows, masked, shown, written_masks
from .builder import Builder, Shape
from .einsums import of_parts
from .layer_calls import Call


def embedding(b: Builder, c: Call) -> str | None:
    """The vectors of a weight at integer indices."""
    layer = c.layer
    if type(layer).__name__ not in ("Embedding", "ReversibleEmbedding"):
        return None
    return b.emit("embedding", [_indices(b, c)], c.output, c.path, {"weight": layer.embeddings})


def _indices(b: Builder, c: Call) -> str:
    """Return the indices that an embedding reads: Keras takes numbers of any type, a file's look-up 32 or 64 bits."""
    if b.specs[c.inputs[0]].dtype in ("int32", "int64"):
        return c.inputs[0]
    given = keras.KerasTensor(c.arguments.keras_tensors[0].shape, "int32")
    return b.keep("float", Cast("int32"), c.inputs, [given], c.path, target="indices")[0]


def reversible_embedding(b: Builder, c: Call) -> str | None:
    """An embedding, or, in reverse, the product with the transposed weight that gives each index its score."""
    layer = c.layer
    bound = inspect.signature(type(layer).call).bind(layer, *c.arguments.args, **c.arguments.kwargs).arguments
    if not bound.get("reverse", False):
        return embedding(b, c)
    if layer.reverse_dtype not in (None, "float32"):
        return None
    weight, axis = (layer.embeddings, 0) if layer.tie_weights else (layer.reverse_embeddings, -1)
    name = b.emit("dense", c.inputs, c.output, c.path, {"weight": weight}, channel_axis=axis)
    cap = layer.logit_soft_cap
    if cap is None:
        return name
    for number, kind in ((1 / cap, "tanh"), (cap, "")):
        factor = b.constant(np.full([1] * len(c.shape), number, np.float32), c.path)
        name = b.emit("mul", [name, factor], c.output, c.path)
        name = b.emit(kind, [name], c.output, c.path) if kind else name
    return name


def softmax(b: Builder, c: Call) -> str | None:
    """A softmax over one axis, perhaps with a mask. Any axis but the last is permuted to its place, and back.

    Keras makes zeros of a row that a mask hides whole.
    """
    axis, rank = c.layer.axis, len(c.shape)
    axis = axis[0] if isinstance(axis, (tuple, list)) and len(axis) == 1 else axis
    if not isinstance(axis, int) or axis % rank == 0 or (c.shape[axis] or 1) == 1 or b.specs[c.inputs[0]].dtype != "float32":
        return None
    turn = (*(a for a in range(rank) if a != axis % rank), axis % rank)
    source, mask = c.inputs[0], _arguments(c).get("mask")
    if axis % rank != rank - 1 and mask is not None:
        return None
    source = written_masks(b, permuted(b, source, turn, c.path), c.path)
    seen = "" if mask is None else shown(b, mask, rank, c.path)
    if seen is None:
        return None
    source = masked(b, source, seen, c.path) if seen else source
    name = b.emit("softmax", [source], tuple(c.shape[a] for a in turn), c.path, beta=1.0)
    name = cleared(b, name, seen, c.path) if seen and hides_rows(mask) else name
    return permuted(b, name, tuple(turn.index(a) for a in range(rank)), c.path)


def _arguments(c: Call) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    return dict(inspect.signature(c.layer.call).bind(*c.arguments.args, **c.arguments.kwargs).arguments)


def einsum_dense(b: Builder, c: Call) -> str | None:
    """A dense layer over several axes; a bias that is one for several outputs is added."""
    layer = c.layer
    found = as_dense_sum(spelled_out(layer.equation, (len(b.specs[c.inputs[0]].shape), len(layer.kernel.shape))))
    made = tuple(layer.kernel.shape[a] for a in found.made) if found is not None else ()
    whole = layer.bias is None or (found is not None and tuple(layer.bias.shape) == made and _is_in_order(found.result))
    name = None if found is None else dense_sum(b, c, found, layer.kernel, layer.bias if whole else None)
    if name is None:
        return None
    if not whole:
        bias = b.emit("constant", [], tuple(layer.bias.shape), f"{c.path}/bias", {"value": layer.bias})
        name = b.emit("add", [name, bias], c.output, c.path)
    return activated(b, name, c)


def dense_sum(b: Builder, c: Call, found: DenseSum, weight: Any, bias: Any = None) -> str | None:
    """Add a dense layer over permuted axes: those that it sums, and those that it makes, are merged. ``weight``: see ``emit``."""
    read = b.specs[c.inputs[0]].shape
    if None in (*read[1:], *c.shape[1:]) or b.specs[c.inputs[0]].dtype != "float32":
        return None
    source = permuted(b, c.inputs[0], found.source, c.path)
    kept, summed = (tuple(read[a] for a in axes) for axes in (found.source[: -found.summed], found.source[-found.summed :]))
    if found.summed > 1:
        source = b.reshape(source, (*kept, math.prod(n or 1 for n in summed)), f"{c.path}_merged", c.path)
    result = tuple(c.shape[found.result.index(i)] for i in range(len(c.shape)))
    made = (*kept, math.prod(n or 1 for n in result[len(kept) :]))
    axes = found.made if len(found.made) > 1 else found.made[0]
    name = b.emit("dense", [source], made, c.path, {"weight": weight, "bias": bias}, channel_axis=axes)
    if len(found.made) > 1:
        name = b.reshape(name, result, f"{c.path}_split", c.path)
    return permuted(b, name, found.result, c.path)


def _is_in_order(axes: tuple[int, ...]) -> bool:
    return axes == tuple(range(len(axes)))


def matmul(b: Builder, c: Call) -> str | None:
    """``keras.ops.matmul`` of two tensors, or of a tensor and a weight."""
    fits = all(len(b.specs[n].shape) >= 2 and b.specs[n].dtype == "float32" for n in c.inputs)
    weight = _weight(b, c)
    if fits and weight is not None and len(weight[1]) == 2:
        return b.emit("dense", c.inputs[:1], c.output, c.path, {"weight": weight[0]}, channel_axis=weight[2])
    return b.emit("matmul", c.inputs, c.output, c.path, transpose_b=False) if fits and len(c.inputs) == 2 else None


def dot(b: Builder, c: Call) -> str | None:
    """``keras.ops.dot`` of a tensor and a matrix, which is that of ``keras.ops.matmul``."""
    weight = _weight(b, c)
    return matmul(b, c) if weight is not None and len(weight[1]) == 2 else None


def tensordot(b: Builder, c: Call) -> str | None:
    """``keras.ops.tensordot`` of a tensor's last axis and the first of a matrix."""
    axes, rank = c.layer.axes, len(b.specs[c.inputs[0]].shape)
    if not isinstance(axes, int):
        axes = [tuple(np.ravel(one)) for one in axes]
    return dot(b, c) if axes == 1 or axes in ([(-1,), (0,)], [(rank - 1,), (0,)]) else None


def _weight(b: Builder, c: Call) -> tuple[Any, tuple[int, ...], int] | None:
    """Return the second operand of a product as a weight, its shape, and the axis of its outputs; None for an activation."""
    if len(c.inputs) == 2:
        turned = b.turned.get(c.inputs[1])
        name = turned or c.inputs[1]
        parameter = b.parameter(name)
        spec = b.specs[name].shape
        known = parameter is not None and not b.is_parameter(c.inputs[0]) and tuple(b.params[parameter].shape) == spec
        return (parameter, tuple(n or 1 for n in spec), 0 if turned else 1) if known else None
    values = [*c.arguments.args, *c.arguments.kwargs.values()]
    if len(values) != 2 or isinstance(values[1], keras.KerasTensor):
        return None
    array = np.asarray(keras.ops.convert_to_numpy(values[1]), np.float32)
    return array, array.shape, 1


def einsum(b: Builder, c: Call) -> str | None:
    """``keras.ops.einsum``: a product of a tensor and a weight, of two permuted tensors whose batch stays first, or its parts."""
    weight = _weight(b, c)
    shapes = [*(b.specs[name].shape for name in c.inputs), *([] if weight is None or len(c.inputs) == 2 else [weight[1]])]
    if any(b.specs[n].dtype != "float32" for n in c.inputs) or len(shapes) != len(c.arguments.args):
        return None
    equation = spelled_out(c.layer.subscripts, list(map(len, shapes)))
    sized = zip(equation.partition("->")[0].replace(",", ""), (size for shape in shapes for size in shape), strict=True)
    if len(set(sized)) > len(set(equation) - {*",->"}):  # axes of one that are repeated
        return None
    result = equation.partition("->")[2]
    if "->" not in c.layer.subscripts and sorted(result, key=equation.index) != [*result]:
        return None  # Keras computes another order than it says
    dense = as_dense_sum(equation) if weight is not None else None
    if weight is not None and dense is not None:
        return dense_sum(b, c, dense, weight[0])
    found = as_product(equation) if len(c.inputs) == 2 else None
    if found is None or any(axes[0] for axes in (found.a, found.b, found.result)):
        return of_parts(b, c, equation)
    left, right = (permuted(b, name, axes, c.path) for name, axes in zip(c.inputs, (found.a, found.b), strict=True))
    made = tuple(c.shape[found.result.index(i)] for i in range(len(c.shape)))
    return permuted(b, b.emit("matmul", [left, right], made, c.path, transpose_b=found.transposed), found.result, c.path)


def permuted(b: Builder, name: str, axes: tuple[int, ...], path: str) -> str:
    """Add a permutation of the axes after the batch, where there is one, and return the output's name."""
    if axes == tuple(range(len(axes))):
        return name
    return b.emit("transpose", [name], tuple(b.specs[name].shape[a] for a in axes), f"{path}_permuted", axes=axes)


def multi_head_attention(b: Builder, c: Call) -> str | None:
    """``MultiHeadAttention`` on sequences, with or without masks that are given to it."""
    layer, path = c.layer, c.path
    called: Any = inspect.signature(type(layer).call).bind(layer, *c.arguments.args, **c.arguments.kwargs).arguments
    bound = {name: value for name, value in called.items() if value is not None and value is not False}
    # With dropout its parts are recorded, so that it acts in training.
    masks = {"attention_mask", "use_causal_mask"}
    if set(bound) - {"self", "query", "value", "key", "training"} - masks or not _is_plain(layer) or layer._dropout > 0:
        return None
    query, value, key = bound["query"], bound["value"], bound.get("key", bound["value"])
    if any(len(t.shape) != 3 or None in t.shape[1:] or str(t.dtype) != "float32" for t in (query, value, key)):
        return None
    if key.shape[1] == 1:  # a softmax of one element
        return None
    given = bound.get("attention_mask")
    seen = None if given is None else shown(b, given, 3, path)
    if given is not None and (seen is None or None in b.specs[seen].shape[1:]):
        return None
    heads = []
    for tensor, dense in ((query, layer._query_dense), (key, layer._key_dense), (value, layer._value_dense)):
        # [batch, length, heads, size of a head]
        made = keras.KerasTensor((*tensor.shape[:2], *dense.kernel.shape[1:]), "float32")
        name = einsum_dense(b, Call(dense, (b.names[id(tensor)],), made, f"{path}/{dense.name}"))
        if name is None:
            return None
        heads.append(permuted(b, name, (0, 2, 1, 3), path))
    batch, length, _ = query.shape
    scores: Shape = (batch, layer.num_heads, length, key.shape[1])
    name = b.emit("matmul", heads[:2], scores, f"{path}/scores", transpose_b=True)
    beta = float(layer._inverse_sqrt_key_dim)
    if seen is not None:
        count, *sizes = b.specs[seen].shape
        name = masked(b, name, b.reshape(seen, (count, 1, *sizes), f"{path}_mask_of_heads", path), path, beta)
    if bound.get("use_causal_mask", False):
        name = masked(b, name, causal(b, scores, path), path, beta)
    name = b.emit("softmax", [name], scores, f"{path}/softmax", beta=beta)
    result: Shape = (*scores[:3], layer._value_dim)
    name = permuted(b, b.emit("matmul", [name, heads[2]], result, f"{path}/values", transpose_b=False), (0, 2, 1, 3), path)
    last = layer._output_dense
    return einsum_dense(b, Call(last, (name,), c.output, f"{path}/{last.name}"))


def _is_plain(layer: keras.layers.Layer) -> bool:
    """Whether a layer is the attention of Vaswani et al. 2017 on the only axis of a sequence."""
    others = ("_use_gate", "_sliding_window")
    return tuple(layer._attention_axes) == (1,) and not any(getattr(layer, name, None) for name in others)


def dot_product_attention(b: Builder, c: Call) -> str | None:
    """``keras.ops.dot_product_attention`` of ``[batch, length, heads, size]``, perhaps with masks and a bias."""
    bound = _arguments(c)
    query, key, value = (bound[name] for name in ("query", "key", "value"))
    parts = [b.names.get(id(t), "") for t in (query, key, value)]
    if "" in parts or any(None in b.specs[n].shape[1:] or b.specs[n].dtype != "float32" for n in parts) or key.shape[1] == 1:
        return None
    bias, mask, scale = (bound.get(name) for name in ("bias", "mask", "scale"))
    plain = query.shape[2] == key.shape[2] and c.layer.attn_logits_soft_cap is None
    if not plain or not (bias is None or isinstance(bias, keras.KerasTensor)):
        return None
    scale = 1 / math.sqrt(key.shape[-1]) if scale is None else float(scale)
    scores: Shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    seen = None if mask is None else shown(b, mask, 4, c.path)
    if mask is not None and seen is None:
        return None
    heads = [permuted(b, name, (0, 2, 1, 3), c.path) for name in parts]
    name = b.emit("matmul", heads[:2], scores, f"{c.path}/scores", transpose_b=True)
    if bias is not None:
        factor = b.constant(np.full((1,) * 4, scale, np.float32), c.path)
        name, scale = b.emit("mul", [name, factor], scores, f"{c.path}/scaled"), 1.0
        name = b.emit("add", [name, b.names[id(bias)]], scores, f"{c.path}/bias")
    name = name if seen is None else masked(b, name, seen, c.path, scale)
    name = masked(b, name, causal(b, scores, c.path), c.path, scale) if c.layer.is_causal else name
    name = b.emit("softmax", [name], scores, f"{c.path}/softmax", beta=scale)
    made = (*scores[:3], value.shape[-1])
    return permuted(b, b.emit("matmul", [name, heads[2]], made, f"{c.path}/values", transpose_b=False), (0, 2, 1, 3), c.path)
