"""Tracing: a Functional or Sequential Keras 3 model, layer by layer, becomes the neutral graph."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.masking import get_keras_mask

from qat.errors import CaptureError
from qat.graph.custom_layers import HANDLERS
from qat.graph.graph import Graph
from qat.graph.training_acts import TrainingAct

from .added_losses import without_losses
from .beside_masks import left_float
from .builder import Builder, Shape, spec_of
from .calls import build, calls_of, functional_of, nodes_of
from .channels_first import with_channels_last
from .computed_weights import lift_computed_weights, separate_sources
from .counted_batch import StandIns
from .full_precision import captured_in_full, recorded_in_full
from .implicit_masks import with_masks
from .layer_calls import Arguments, Call, with_placeholders
from .move_ops import is_move
from .opening import GIVE_SIZES, kind_of, may_open, opened, recorded
from .own_training import own_training, tell_of_preprocessing
from .parts import MULTIPLE
from .per_sample import settled, without_spreads, without_unread
from .rules import rule_of
from .weight_function import WeightFunction
from .writable_forms import writable_form

#: Layers that pass their input on.
_NOTHING = ("ActivityRegularization", "Identity")

#: Layers that are the identity outside training: dropout, noise, augmentation.
_TRAINING_ONLY = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianNoise", "GaussianDropout",
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness", "RandomShear",
    "RandomColorJitter", "RandomErasing", "RandomHue", "RandomSaturation", "RandomSharpness", "RandomGaussianBlur",
    "RandomGrayscale", "RandomPosterization", "RandomInvert", "RandomColorDegeneration", "RandomPerspective",
    "RandomElasticTransform", "RandAugment", "AugMix", "MixUp", "CutMix", "Equalization", "Solarization",
)  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """A captured model.

    Attributes:
        graph: the neutral graph, NHWC.
        params: every parameter that the graph's operators name, in Keras' layout, float32.
        layers: the layer of every operator of kind ``float`` or ``move``, by operator name.
        arguments: how each of ``layers`` is called, see :mod:`qat.adapters.keras.capture.layer_calls`.
        computed: the parameters that are computed from others, by name.
        frozen: parameters that are not trained.
        inputs: the inputs by tensor name, nested as the model takes them.
        input_layers: the tensor of each input layer, by the layer's name.
        outputs: the outputs by tensor name, nested as the model returns them.
        output_names: the model's own names of its outputs, by which losses may be given.
        own_training: what :func:`qat.adapters.keras.capture.own_training.own_training` says of the model.
        acts: what training does with tensors of the graph.
        act_layers: the layers of each, in order, by the act's name.
    """

    graph: Graph
    params: Mapping[str, np.ndarray]
    layers: Mapping[str, keras.Operation]
    arguments: Mapping[str, Arguments]
    computed: Mapping[str, WeightFunction]
    frozen: frozenset[str]
    inputs: Any
    input_layers: Mapping[str, str]
    outputs: Any
    output_names: tuple[str, ...]
    own_training: tuple[str, ...] = ()
    acts: tuple[TrainingAct, ...] = ()
    act_layers: Mapping[str, tuple[keras.layers.Layer, ...]] = field(default_factory=dict)

    @property
    def fixed(self) -> frozenset[str]:
        """The parameters that are not trained."""
        return self.frozen

    def fixing(self, names: Set[str]) -> Traced:
        """Return the same with more parameters that are not trained."""
        return replace(self, frozen=self.frozen | names)


def trace(model: keras.Model, example_inputs: Any = None, dropout: bool = True) -> Traced:
    """Capture a model. ``example_inputs`` is needed for a subclassed model that was never called; others know their shapes.

    Layers that only act in training (dropout, noise, augmentation) are no part of the graph: with ``dropout`` they are noted
    beside it. Layers of the user's own are opened: the graph has the layers and operations that their ``call`` consists of. A
    model of another precision than float32 is captured as the float32 model of the same weights.

    Raises:
        CaptureError: a model without an input shape, an image size that is not fixed, or weights that Keras has quantized.
    """
    build(model, example_inputs)
    _refuse_quantized(model)
    tell_of_preprocessing(model)
    with captured_in_full(model), without_losses():
        return _trace(model, example_inputs, dropout)


def _refuse_quantized(model: keras.Model) -> None:
    """Refuse a model whose weights are Keras' integers: their scales would be lost."""
    for layer in model._flatten_layers():
        if mode := getattr(layer, "quantization_mode", None):
            raise CaptureError(f"'{layer.name}' was quantized by Keras, by model.quantize('{mode}'): prepare the float model")


def _trace(model: keras.Model, example_inputs: Any, dropout: bool) -> Traced:
    calls = calls_of(model, example_inputs)
    b = Builder(dropout)
    tensors = keras.tree.flatten(calls.inputs)
    for tensor in tensors:
        name = b.names[id(tensor)] = b.unique(tensor.name)
        b.specs[name] = spec_of(name, tensor)
    inputs = tuple(b.specs)
    b.walk = lambda node, scope: _walk(b, (node,), scope)
    _stand_in(b, calls.stand_ins)
    outputs = keras.tree.flatten(calls.outputs)
    _walk(b, _laid(b, calls.nodes, calls.variables, outputs, model.name), "")
    separate_sources(b)
    copies = _copies(b, {b.names[id(t)]: t for t in tensors}, outputs, model.name)
    outputs = keras.tree.map_structure(lambda t: copies.get(b.names[id(t)], b.names[id(t)]), calls.outputs)
    b.ops = without_unread(without_spreads(b.ops, b.specs), b.turned.keys() | b.spare, keras.tree.flatten(outputs))
    b.ops = left_float(b)
    distinct = tuple(dict.fromkeys(keras.tree.flatten(outputs)))
    return Traced(
        graph=Graph(b.unique(model.name), "NHWC", inputs, distinct, tuple(b.ops), b.specs),
        params=b.params,
        layers=b.layers,
        arguments=b.arguments,
        computed=b.computed,
        frozen=frozenset(b.frozen),
        inputs=keras.tree.map_structure(lambda t: b.names[id(t)], calls.inputs),
        input_layers={str(t.name): name for t, name in zip(tensors, inputs, strict=True)},
        outputs=outputs,
        output_names=calls.output_names,
        own_training=own_training(model),
        acts=b.acts.found(b.ops, b.names, keras.tree.flatten(calls.outputs)),
        act_layers=b.acts.layers,
    )


def _copies(b: Builder, inputs: Mapping[str, keras.KerasTensor], outputs: Sequence[Any], model: str) -> dict[str, str]:
    """Add a copy of each input that the model returns: an output is what an operator writes. Return the copies by input."""
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in outputs):
        raise CaptureError(f"'{model}' returns an array that no input reaches: leave it out of what the model returns")
    returned = {b.names[id(tensor)] for tensor in outputs}
    return {
        name: b.keep("float", keras.layers.Identity(), (name,), (tensor,), f"{name}_copy")[0]
        for name, tensor in inputs.items()
        if name in returned
    }


def _walk(b: Builder, nodes: Iterable[Any], scope: str) -> None:
    """Add the operators of recorded calls, whose inputs have names already."""
    for node in nodes:
        inner = functional_of(node.operation)
        if inner is not None and _is_to_open(node, inner):
            _add(b, node, f"{scope}{node.operation.name}")
        elif inner is not None:
            _enter(b, node, inner, f"{scope}{node.operation.name}/")
        else:
            _add(b, node, f"{scope}{node.operation.name}")


def _is_to_open(node: Any, inner: Any) -> bool:
    """Return whether a model within another is called on tensors with masks, or of a size or precision it was not recorded in."""
    pairs = [*zip(node.arguments.keras_tensors, inner.inputs, strict=False)]
    sized = any(_is_sized(given.shape, record.shape) for given, record in pairs)
    return sized or not recorded_in_full(nodes_of(inner)) or any(get_keras_mask(given) is not None for given, _ in pairs)


def _is_sized(given: Shape, record: Shape) -> bool:
    """Return whether a shape has sizes that a record leaves free, or another batch, where a first call has fixed that."""
    return record[:1] not in ((None,), given[:1]) or (None in record[1:] and given[1:] != record[1:])


def _enter(b: Builder, node: Any, inner: Any, scope: str) -> None:
    """Add the operators of a model that is a layer of another."""
    for theirs, mine in zip(inner.inputs, node.arguments.keras_tensors, strict=True):
        b.names[id(theirs)] = b.names[id(mine)]
        b.acts.same(mine, theirs)
    _walk(b, nodes_of(inner), scope)
    for theirs, mine in zip(inner.outputs, node.outputs, strict=True):
        b.names[id(mine)] = b.names[id(theirs)]
        b.acts.same(theirs, mine)


def _add(b: Builder, node: Any, path: str) -> None:
    """Add the operators of one call of a layer: those of its rule, those that it consists of, or one that keeps the layer."""
    layer, outputs = node.operation, node.outputs
    if not isinstance(layer, keras.layers.Layer):
        node = settled(b, node, path)
    kind = kind_of(layer)
    node = _masked(b, node, kind, path)
    call = Call(layer, tuple(b.names[id(t)] for t in node.arguments.keras_tensors), outputs[0], path, node.arguments)
    acts = kind in _TRAINING_ONLY or _is_own_act(layer, node)
    if acts or kind in _NOTHING or _converts_nothing(kind, call) or _crops_nothing(kind, call):
        b.names[id(outputs[0])] = call.inputs[0]
        b.acts.same(node.arguments.keras_tensors[0], outputs[0])
        if acts:
            b.acts.add(layer, call.inputs[0], outputs[0])
        return
    before = len(b.ops)
    names = _by_rule(b, kind, call, outputs)
    if names is not None:
        b.names |= {id(tensor): name for tensor, name in zip(outputs, names, strict=True)}
        b.acts.read(node.arguments.keras_tensors, b.names, b.ops[before:])
        return
    why = _open(b, node, path) if may_open(layer, kind) else ""
    if why is None:
        return
    _keep(b, settled(b, node, path), path, {"reason": f"{type(layer).__name__} {why}"} if why else {})


def _masked(b: Builder, node: Any, kind: str, path: str) -> Any:
    """Return a call with the masks that it reads as arguments, and add the operators that make them."""
    masked = with_masks(node, kind)
    for tensor in masked.arguments.keras_tensors:
        made = () if id(tensor) in b.names else recorded([tensor], b.names.keys())
        if made is None:  # a mask that the layer before makes by itself
            return node
        _walk(b, made, f"{path}/")
    return masked


def _keep(b: Builder, node: Any, path: str, attrs: Mapping[str, Any]) -> None:
    """Add an operator that keeps a layer as it is."""
    given = next(iter(node.arguments.keras_tensors), None)
    layer, outputs, before = writable_form(node.operation, given, path), node.outputs, len(b.ops)
    call = Call(layer, tuple(b.names[id(t)] for t in node.arguments.keras_tensors), outputs[0], path, node.arguments)
    _refuse_free(layer, given, path)
    if not attrs and any(None in t.shape[1:] for t in node.arguments.keras_tensors) and rule_of(b, kind_of(layer), call):
        attrs = {"reason": f"reads a size that the model leaves free: {GIVE_SIZES}"}
    kept = "move" if len(outputs) == 1 and is_move(kind_of(node.operation), call) else "float"
    names = b.keep(kept, layer, call.inputs, outputs, path, with_placeholders(node.arguments), **attrs)
    b.names |= {id(tensor): name for tensor, name in zip(outputs, names, strict=True)}
    b.acts.read(node.arguments.keras_tensors, b.names, b.ops[before:])


def _refuse_free(layer: keras.Operation, given: keras.KerasTensor | None, path: str) -> None:
    """Refuse a resizing of images of a free size, which no format holds."""
    smooth = isinstance(layer, keras.layers.UpSampling2D) and layer.interpolation != "nearest"
    if smooth and given is not None and None in given.shape[1:]:
        raise CaptureError(f"{path}: an interpolation needs a fixed image size: {GIVE_SIZES}")


def _open(b: Builder, node: Any, path: str) -> str | None:
    """Add the operators that a call of a layer consists of; a reason where they are not known."""
    found = opened(node.operation, node.arguments.args, node.arguments.kwargs, b.names.keys())
    if isinstance(found, str):
        return found
    if len(found.outputs) != len(node.outputs):
        return "returns another number of values than Keras recorded"
    b.opened.append(found)
    _stand_in(b, found.stand_ins)
    _walk(b, _laid(b, found.nodes, found.variables, found.outputs, path), f"{path}/")
    for theirs, mine in zip(found.outputs, node.outputs, strict=True):
        if not isinstance(theirs, keras.KerasTensor):
            b.names[id(mine)] = b.constant(np.asarray(theirs), path)
            continue
        b.names[id(mine)] = b.names[id(theirs)]
        b.acts.same(theirs, mine)
    return None


def _stand_in(b: Builder, stand_ins: StandIns) -> None:
    """Give the tensors of a call that was recorded with a number of samples the names of those that they stand for."""
    for tensor, given in stand_ins:
        b.names[id(tensor)] = b.names[id(given)]
        b.acts.same(given, tensor)


def _laid(
    b: Builder, nodes: Sequence[Any], variables: Mapping[int, keras.Variable], outputs: Sequence[keras.KerasTensor], path: str
) -> Sequence[Any]:
    """Add variables that recorded calls read, and what is computed from variables alone, as tensors; return the other calls."""
    nodes = lift_computed_weights(b, nodes, variables, outputs, path)
    read = [t for node in nodes for t in node.arguments.keras_tensors]
    for tensor in {id(t): t for t in (*read, *outputs)}.values():
        variable = variables.get(id(tensor))
        if variable is not None:
            b.names[id(tensor)] = b.emit("constant", [], tuple(variable.shape), f"{path}/{variable.name}", {"value": variable})
    return nodes


def _by_rule(b: Builder, kind: str, call: Call, outputs: Sequence[keras.KerasTensor]) -> list[str] | None:
    """Add the operators of a layer that has a rule, or a handler of the user's, and return the names of its outputs."""
    if kind in MULTIPLE:
        return MULTIPLE[kind](b, call, outputs)
    handler = HANDLERS.get(type(call.layer))
    handled = handler(call.layer) if handler else None
    if len(outputs) != 1:
        return None
    if handled is not None:
        return [b.emit(handled.kind, call.inputs, call.output, call.path, handled.params, **handled.attrs)]
    rule = rule_of(b, kind, call)
    name = with_channels_last(b, kind, call, rule) if rule else None
    return None if name is None else [name]


def _converts_nothing(kind: str, call: Call) -> bool:
    """Return whether a conversion gives a tensor the dtype that it has."""
    (source, *_) = call.arguments.keras_tensors or (None,)
    return kind in ("ConvertToTensor", "Cast") and source is not None and source.dtype == call.output.dtype


def _crops_nothing(kind: str, call: Call) -> bool:
    """Return whether a crop, at random or in the middle, keeps the whole image."""
    return kind in ("RandomCrop", "CenterCrop") and tuple(call.arguments.keras_tensors[0].shape) == call.shape


def _is_own_act(layer: keras.Operation, node: Any) -> bool:
    """Whether a layer of the user's own, without weights, passes its input on outside training: stochastic depth, say."""
    if type(layer).__module__.startswith("keras.") or getattr(layer, "weights", True) or len(node.arguments.keras_tensors) != 1:
        return False
    if "training" not in inspect.signature(layer.call).parameters:
        return False
    (x,) = node.arguments.keras_tensors
    try:
        return layer.call(x, training=False) is x
    except Exception:  # of whatever class the user's code raises on a symbolic tensor
        return False
