"""Capture: ``torch.export`` in eval mode, ATen operators to the neutral graph's kinds."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qat.errors import CaptureError
from qat.graph import Graph, Op, TensorSpec

aten = torch.ops.aten


@dataclass(frozen=True)
class Traced:
    """A captured model.

    Attributes:
        graph: the neutral graph.
        params: every parameter and buffer that the graph's operators name, in PyTorch's layout, float32.
        nodes: the captured node of every operator of kind ``float``, by operator name.
        state: the remaining tensors (buffers, constants) that float operators read, by name.
        owner: the name of the parameter or buffer behind each captured placeholder.
        buffers: the names that are buffers, not parameters.
        frozen: parameters that do not require a gradient.
        structure: how the user's outputs are nested (a pytree spec), and its leaves by tensor name.
        device: where the model's tensors are.
    """

    graph: Graph
    params: Mapping[str, np.ndarray]
    nodes: Mapping[str, fx.Node]
    state: Mapping[str, torch.Tensor]
    owner: Mapping[str, str]
    buffers: frozenset[str]
    frozen: frozenset[str]
    structure: tuple[Any, tuple[str | None, ...]]
    device: torch.device


def trace(model: nn.Module, example_inputs: tuple[Any, ...] | None) -> Traced:
    """Capture a model for any batch size.

    The model is captured in eval mode: dropout and stochastic depth are off, BatchNorm uses its running statistics.

    Raises:
        CaptureError: torch.export cannot capture it; the message carries the user's line and what to do.
    """
    if example_inputs is None:
        raise CaptureError("a PyTorch model is captured by running it: pass example_inputs, a batch of its inputs")
    exported = _export(model, example_inputs)
    signature = exported.graph_signature
    owner = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    if signature.buffers_to_mutate:
        names = ", ".join(sorted(signature.buffers_to_mutate.values())[:3])
        raise CaptureError(
            f"the model changes its own buffers in eval mode ({names}): make them outputs, or do it outside forward"
        )
    # parameters_to_mutate and friends do not occur in eval mode; everything else is a pure function of the inputs.
    tensors = {**exported.state_dict, **exported.constants}
    builder = _Builder(owner, tensors)
    graph = builder.build(exported.graph, type(model).__name__)
    used = {name for op in graph.ops for name in op.params.values()}
    requires_grad = {name for name, p in exported.named_parameters() if p.requires_grad}
    parameters = {name for name, _ in exported.named_parameters()}
    return Traced(
        graph=graph,
        params={name: tensors[name].detach().cpu().float().numpy() for name in used},
        nodes=builder.nodes,
        state={name: tensors[name] for name in builder.read_by_float},
        owner=owner,
        buffers=frozenset(tensors) - parameters,
        frozen=frozenset(parameters - requires_grad),
        structure=(exported.call_spec.out_spec, builder.leaves),
        device=next((t.device for t in model.state_dict().values()), torch.device("cpu")),
    )


def _export(model: nn.Module, example_inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    batch = {x.shape[0] for x in example_inputs if isinstance(x, torch.Tensor) and x.ndim > 0}
    if len(batch) != 1:
        raise CaptureError(
            f"the example inputs have first dimensions {sorted(batch)}: pass tensors that share one batch size, batch first"
        )
    # A batch of one would be specialised as a constant by torch.export.
    if batch == {1}:
        example_inputs = tuple(x.repeat(2, *[1] * (x.ndim - 1)) if isinstance(x, torch.Tensor) else x for x in example_inputs)
    quiet = copy.deepcopy(model).eval()
    shapes: list[Any] = [{0: torch.export.Dim.AUTO} if isinstance(x, torch.Tensor) and x.ndim else None for x in example_inputs]
    kinds = [p.kind for p in inspect.signature(quiet.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # forward(self, a, *rest): torch.export takes the rest as one
        first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        shapes = [*shapes[:first], tuple(shapes[first:])]
    try:
        with torch.no_grad():
            exported = torch.export.export(quiet, example_inputs, dynamic_shapes=tuple(shapes), strict=False)
            return _without_divisors(_functional(exported))
    except Exception as error:
        raise CaptureError(_explain(model, error)) from error


def _functional(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Replace in-place operators, which survive the capture, by the ones that return their result."""
    graph = exported.graph
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
            continue
        changed = node.args[0]
        packet = getattr(aten, node.target._opname.removesuffix("_"), None)
        overload = getattr(packet, node.target._overloadname or "default", None)
        if overload is None or not isinstance(changed, fx.Node) or changed.op == "placeholder" or _is_view(changed):
            # PyTorch's own pass handles whatever else there is, but takes BatchNorm apart.
            return exported.run_decompositions({})
        node.target = overload
        after = {user for user in changed.users if order[user] > order[node]}
        changed.replace_all_uses_with(node, delete_user_cb=after.__contains__)
    return exported


def _without_divisors(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write an average pooling with a divisor of its own as one without, scaled: torch.onnx leaves the divisor out."""
    graph = exported.graph
    for node in list(graph.nodes):
        divisor = node.args[6] if node.target is aten.avg_pool2d.default and len(node.args) > 6 else None
        if divisor is None or node.args[4]:  # with ceil_mode the windows at the edge are of other sizes
            continue
        (height, *rest), size = node.args[1], len(node.args[1])
        area = height * (rest[0] if size > 1 else height)
        node.args = (*node.args[:5], True)
        with graph.inserting_after(node):
            scaled = graph.call_function(aten.mul.Tensor, (node, area / divisor))
        scaled.meta = dict(node.meta)
        node.replace_all_uses_with(scaled, delete_user_cb=lambda user, new=scaled: user is not new)
    return exported


def _is_view(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and any(r.alias_info is not None for r in node.target._schema.returns)


def _explain(model: nn.Module, error: Exception) -> str:
    """Say in one sentence why a model was not captured, with the line of the user's code where there is one."""
    import traceback

    text = str(error).strip().splitlines()
    what = text[0] if text else type(error).__name__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename and "/qat/" not in f.filename]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} `{(frames[-1].line or '')[:100]}`" if frames else ""
    return (
        f"torch.export cannot capture {type(model).__name__}{where}: {type(error).__name__}: {what}. Check that the example "
        "inputs fit the model; replace Python control flow on tensor values by torch.where, or prepare the part of the "
        "model before it"
    )


class _Builder:
    """Walks the captured graph once. ``read_by_float`` collects the tensors that float operators read."""

    def __init__(self, owner: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> None:
        self.owner, self.tensors = owner, tensors
        self.nodes: dict[str, fx.Node] = {}
        self.read_by_float: set[str] = set()
        self.specs: dict[str, TensorSpec] = {}
        self.leaves: tuple[str | None, ...] = ()

    def build(self, captured: fx.Graph, name: str) -> Graph:
        inputs: list[str] = []
        outputs: tuple[str, ...] = ()
        ops: list[Op] = []
        for node in captured.nodes:
            if node.op == "placeholder" and node.name not in self.owner:
                inputs.append(node.name)
                self._describe(node)
            elif node.op == "call_function" and _is_tensor(node):
                ops.append(self._op(node))
                self._describe(node)
            elif node.op == "call_function" and _is_tuple(node):
                ops.append(self._float(node))
            elif node.op == "output":
                self.leaves = tuple(a.name if isinstance(a, fx.Node) else None for a in node.args[0])
                outputs = tuple(dict.fromkeys(name for name in self.leaves if name is not None))
        return Graph(name, "NCHW", tuple(inputs), outputs, tuple(ops), self.specs)

    def _describe(self, node: fx.Node) -> None:
        value = node.meta["val"]
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        self.specs[node.name] = TensorSpec(node.name, shape, str(value.dtype).removeprefix("torch."))

    def _op(self, node: fx.Node) -> Op:
        rule = _RULES.get(node.target)
        matched = rule(self, node) if rule else None
        if matched is None:
            return self._float(node)
        kind, inputs, params, attrs = matched
        return Op(node.name, kind, tuple(i.name for i in inputs), (node.name,), params, attrs, _scope(node))

    def _float(self, node: fx.Node) -> Op:
        self.nodes[node.name] = node
        inputs = []
        for arg in node.all_input_nodes:
            if arg.name in self.owner:
                self.read_by_float.add(self.owner[arg.name])
            elif _is_tensor(arg) or _is_tuple(arg):
                inputs.append(arg.name)
        if _is_tuple(node):
            self.specs[node.name] = TensorSpec(node.name, (), "tuple")
        return Op(node.name, "float", tuple(inputs), (node.name,), {}, {"target": str(node.target)}, _scope(node))

    def param(self, arg: Any) -> str | None:
        """Return the name of the parameter behind an argument, or None where it is not one (or is not float32)."""
        if isinstance(arg, fx.Node) and arg.name in self.owner:
            name = self.owner[arg.name]
            return name if self.tensors[name].is_floating_point() else None
        return None

    def params(self, **roles: Any) -> dict[str, str] | None:
        """Return the names of the parameters by role, without the absent ones; None where one is computed."""
        named = {role: self.param(arg) for role, arg in roles.items() if arg is not None}
        return None if any(name is None for name in named.values()) else {k: v for k, v in named.items() if v is not None}


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _is_tuple(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))


def _scope(node: fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


# --- the table: one function an operator -----------------------------------------------------------------------------
# Each returns (kind, inputs, params, attrs), or None for an operator that this adapter leaves float.


def _arg(node: Any, index: int, name: str, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[-1])) if isinstance(value, (tuple, list)) else (int(value), int(value))


def _symmetric(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    h, w = _pair(value)
    return ((h, h), (w, w))


def _conv2d(b: _Builder, n: Any) -> Any:
    params = b.params(weight=n.args[1], bias=_arg(n, 2, "bias", None))
    if params is None or len(n.args[0].meta["val"].shape) != 4:
        return None
    padding = _arg(n, 4, "padding", 0)
    strides, dilations, groups = _pair(_arg(n, 3, "stride", 1)), _pair(_arg(n, 5, "dilation", 1)), int(_arg(n, 6, "groups", 1))
    if isinstance(padding, str):
        if padding == "valid":
            padding = 0
        else:  # torch's "same" (stride 1 only) puts the odd element at the end
            total = [d * (k - 1) for d, k in zip(dilations, b.tensors[params["weight"]].shape[2:], strict=True)]
            both = tuple((t // 2, t - t // 2) for t in total)
            return "conv2d", [n.args[0]], params, _conv_attrs(strides, both, dilations, groups)
    kind = "depthwise_conv2d" if groups == n.args[0].meta["val"].shape[1] and groups > 1 else "conv2d"
    return kind, [n.args[0]], params, _conv_attrs(strides, _symmetric(padding), dilations, groups)


def _conv_attrs(strides: Any, padding: Any, dilations: Any, groups: int) -> dict[str, Any]:
    return {"strides": strides, "padding": padding, "dilations": dilations, "groups": groups, "channel_axis": 0}


def _linear(b: _Builder, n: Any) -> Any:
    params = b.params(weight=n.args[1], bias=_arg(n, 2, "bias", None))
    return None if params is None else ("dense", [n.args[0]], params, {"channel_axis": 0})


def _batch_norm(b: _Builder, n: Any) -> Any:
    params = b.params(gamma=n.args[1], beta=n.args[2], mean=n.args[3], variance=n.args[4])
    if params is None or "mean" not in params or n.args[5]:
        return None
    return "batch_norm", [n.args[0]], params, {"epsilon": float(n.args[7]), "axis": 1}


def _binary(kind: str) -> Any:
    def rule(b: _Builder, n: Any) -> Any:
        x, y = n.args[0], n.args[1]
        if not all(isinstance(a, fx.Node) and a.name not in b.owner and _is_tensor(a) for a in (x, y)):
            return None
        same_shape = x.meta["val"].shape == y.meta["val"].shape
        return None if not same_shape or n.kwargs.get("alpha", 1) != 1 else (kind, [x, y], {}, {})

    return rule


def _concat(b: _Builder, n: Any) -> Any:
    if any(x.name in b.owner for x in n.args[0]):
        return None
    rank = len(n.meta["val"].shape)
    return "concat", list(n.args[0]), {}, {"axis": int(_arg(n, 1, "dim", 0)) % rank}


def _relu(b: _Builder, n: Any) -> Any:
    return "relu", [n.args[0]], {}, {}


def _clamp(b: _Builder, n: Any) -> Any:
    limits = (_arg(n, 1, "min", None), _arg(n, 2, "max", None))
    if limits == (0, 6):
        return "relu6", [n.args[0]], {}, {}
    return ("relu", [n.args[0]], {}, {}) if limits == (0, None) else None


def _max_pool2d(b: _Builder, n: Any) -> Any:
    kernel = _pair(n.args[1])
    if _pair(_arg(n, 4, "dilation", 1)) != (1, 1) or _arg(n, 5, "ceil_mode", False) or len(n.meta["val"].shape) != 4:
        return None
    strides = _pair(_arg(n, 2, "stride", None) or kernel)
    return "max_pool2d", [n.args[0]], {}, {"kernel": kernel, "strides": strides, "padding": _symmetric(_arg(n, 3, "padding", 0))}


def _avg_pool2d(b: _Builder, n: Any) -> Any:
    kernel, padding = _pair(n.args[1]), _symmetric(_arg(n, 3, "padding", 0))
    plain = padding == ((0, 0), (0, 0)) and not _arg(n, 4, "ceil_mode", False) and not _arg(n, 6, "divisor_override", None)
    if not plain or len(n.meta["val"].shape) != 4:
        return None
    strides = _pair(_arg(n, 2, "stride", None) or kernel)
    return "avg_pool2d", [n.args[0]], {}, {"kernel": kernel, "strides": strides, "padding": padding}


def _adaptive_avg_pool2d(b: _Builder, n: Any) -> Any:
    if _pair(n.args[1]) != (1, 1) or len(n.meta["val"].shape) != 4:
        return None
    return "mean", [n.args[0]], {}, {"axes": (2, 3), "keepdims": True}


def _mean(b: _Builder, n: Any) -> Any:
    rank = len(n.args[0].meta["val"].shape)
    axes = tuple(sorted(int(a) % rank for a in (_arg(n, 1, "dim", None) or ())))
    return ("mean", [n.args[0]], {}, {"axes": axes, "keepdims": bool(_arg(n, 2, "keepdim", False))}) if axes == (2, 3) else None


def _reshape(b: _Builder, n: Any) -> Any:
    """Any operator that only changes the shape, as long as the batch stays first."""
    before, after = n.args[0].meta["val"].shape, n.meta["val"].shape
    if not before or not after or before[0] != after[0] or any(not isinstance(d, int) for d in after[1:]):
        return None
    return "reshape", [n.args[0]], {}, {"shape": (-1, *(int(d) for d in after[1:]))}


def _pad(b: _Builder, n: Any) -> Any:
    amounts, value = list(n.args[1]), _arg(n, 3, "value", None)
    mode = n.args[2] if len(n.args) > 2 and isinstance(n.args[2], str) else n.kwargs.get("mode", "constant")
    if n.target is aten.constant_pad_nd.default:
        mode, value = "constant", _arg(n, 2, "value", 0)
    if mode != "constant" or (value or 0) != 0 or len(n.meta["val"].shape) != 4 or len(amounts) > 4 or min(amounts) < 0:
        return None
    amounts += [0] * (4 - len(amounts))
    return "pad", [n.args[0]], {}, {"padding": ((amounts[2], amounts[3]), (amounts[0], amounts[1]))}


_RULES: dict[Any, Any] = {
    aten.conv2d.default: _conv2d,
    aten.conv2d.padding: _conv2d,
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten.add.Tensor: _binary("add"),
    aten.mul.Tensor: _binary("mul"),
    aten.cat.default: _concat,
    aten.relu.default: _relu,
    aten.relu6.default: lambda b, n: ("relu6", [n.args[0]], {}, {}),
    aten.hardtanh.default: _clamp,
    aten.clamp.default: _clamp,
    aten.max_pool2d.default: _max_pool2d,
    aten.avg_pool2d.default: _avg_pool2d,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    aten.mean.dim: _mean,
    aten.flatten.using_ints: _reshape,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.squeeze.dims: _reshape,
    aten.squeeze.dim: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
}
