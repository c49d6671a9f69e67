"""Insertion: a plan becomes a ``keras.Model`` of integer-grid nodes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from qat.adapters.keras.capture.full_precision import new_layers_in_full
from qat.adapters.keras.capture.own_training import refuse_own_training
from qat.adapters.keras.capture.trace import Traced
from qat.adapters.keras.nodes.learned_scales import LearnedLinear
from qat.graph.computed_weights import factor_of
from qat.planning.plan import Plan

from .kept_layers import KeptLayers, copy_of
from .prepared_model import PreparedModel
from .signature import Signature


@new_layers_in_full()
def insert(
    traced: Traced, plan: Plan, params: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray] = MappingProxyType({})
) -> PreparedModel:
    """Build the prepared model. ``params`` are those of the plan's graph, BatchNorm folded; ``masks`` those of pruned weights.

    Raises:
        CaptureError: the model's class has training of its own, which the prepared model would lose.
    """
    refuse_own_training(traced.own_training, "keras")
    kept = KeptLayers.copied(traced.layers, traced.arguments, plan)
    statistics = {name for p in plan.ops for role, name in p.op.params.items() if role in ("mean", "variance")}
    frozen = traced.frozen | statistics
    used = dict.fromkeys(name for p in plan.ops for name in p.op.params.values())
    computed = {name: function for name, function in traced.computed.items() if name in used}
    held = dict.fromkeys([*used, *(source for function in computed.values() for source in function.sources)])
    shapes = {name: (params[name].shape, name not in frozen) for name in held}
    signature = Signature(traced.inputs, traced.input_layers, traced.outputs, traced.output_names)
    acting = {act.name: tuple(copy_of(layer) for layer in traced.act_layers[act.name]) for act in plan.acts}
    factors = {name: (function, params[factor_of(name)].shape) for name, function in computed.items()}
    model = PreparedModel(plan, signature, kept, shapes, tuple(masks), acting, factors, name=plan.graph.name)
    for name, variable in model.parameters.items():
        variable.assign(params[name])
    for name, weight in model.computed.items():
        weight.factor.assign(params[factor_of(name)])
    for name, mask in model.masks.items():
        mask.assign(masks[name])
    for node in model.nodes.values():
        if isinstance(node, LearnedLinear):
            node.start(np.asarray(params[node.planned.op.params["weight"]]))
    return model
