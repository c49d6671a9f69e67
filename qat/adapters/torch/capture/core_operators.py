"""The core ATen operators that captured operators consist of, as :mod:`qat.planning.held_in_tflite` knows them."""

from __future__ import annotations

import logging
import operator
import re
import warnings
from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
from torch import fx

from qat.graph.graph import EXAMPLE_BATCH
from qat.planning.held_in_tflite import HELD, OF_SIZES, Called, beyond

from .decompose import in_core_operators
from .export import NOT_THE_USERS
from .quick_shapes import quick_shapes
from .trace import Traced

log = logging.getLogger("qat")


def calls(graph: fx.Graph) -> Iterator[Called]:
    """Yield the calls of ATen operators in a graph; what computes sizes is none."""
    for node in graph.nodes:
        if _computes(node):
            yield called(node)


def _computes(node: fx.Node) -> bool:
    """Whether a node calls an ATen operator: no function of Python on sizes."""
    return node.op == "call_function" and node.target.__name__ not in OF_SIZES.union(dir(operator))  # type: ignore[union-attr]


def called(node: fx.Node) -> Called:
    """Return the call that a captured node is."""
    name, value = str(node.target), _value(node.all_input_nodes[0]) if node.all_input_nodes else None
    shape = tuple(n if isinstance(n, int) else None for n in value.shape) if isinstance(value, torch.Tensor) else ()
    read = {int(user.args[1]) for user in node.users if user.target is operator.getitem}  # type: ignore[arg-type]
    schema = getattr(node.target, "_schema", None)
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments if schema is not None else ()):
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        arguments[argument.name] = [_described(x) for x in given] if isinstance(given, (list, tuple)) else _described(given)
    return Called(name, shape, _dtype(value), frozenset(read), arguments)


def _value(node: fx.Node) -> Any:
    return node.meta.get("val")


def _described(given: Any) -> Any:
    return _dtype(_value(given)) if isinstance(given, fx.Node) else given


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""


#: What a .tflite holds, and neither ``torch.onnx`` nor the exporter writes.
_NOT_IN_ONNX = frozenset(
    f"aten.{name}" for name in ("cumprod.default", "hypot.default", "__lshift__.Tensor", "__rshift__.Tensor")
)  # fmt: skip
#: What a .tflite holds within limits, and the exporter of an .onnx writes without.
_WRITTEN = frozenset(("aten.cummax.default", "aten.cummin.default"))


def unheld(traced: Traced, names: Set[str], suffix: str) -> Mapping[str, str]:
    """Return what an artifact cannot hold of the operators that keep PyTorch's implementation, by their names.

    Args:
        traced: the captured model.
        names: of those operators.
        suffix: of the artifact.
    """
    found: dict[str, str] = {}
    if not suffix:
        return found
    known: dict[str, list[str]] = {}  # by the call: a net repeats its blocks
    for name, node in traced.nodes.items():
        if name not in names or not isinstance(node.target, torch._ops.OpOverload):
            continue
        key = repr(called(node))
        if key not in known:
            known[key] = _lacking(node, suffix)
        if lacking := known[key]:
            found[name] = f"a {suffix} cannot hold {', '.join(lacking)}{_place(node)}"
    return found


def _lacking(node: fx.Node, suffix: str) -> list[str]:
    """Return the operators of which a captured one consists, and that a format lacks."""
    call = called(node)
    if not isinstance(call.arguments.get("groups", 1), int):
        return [f"{call.name} (in as many groups as there are samples)"]
    if suffix == ".onnx" and _has_projections(call):
        return [f"{call.name} (with projections)"]
    if suffix == ".onnx" and call.name in _NOT_IN_ONNX:
        return [call.name]
    if not (said := beyond(call)):  # what else a .tflite holds an .onnx holds, too
        return []
    if suffix == ".tflite" and call.name in HELD:  # within limits, beyond which this call is
        return [said]
    parts = _taken_apart(node)
    if suffix == ".tflite":
        return sorted({said for part in parts if (said := beyond(called(part)))})
    if _in_onnx(node):
        return []
    return sorted({said for part in parts if (said := beyond(called(part))) and not _in_onnx(part)})


def _has_projections(call: Called) -> bool:
    """Whether a call is an LSTM that projects its states, with a weight more for each layer: torch.onnx writes a broken file."""
    if call.name != "aten.lstm.input":
        return False
    layers = call.arguments["num_layers"] * (2 if call.arguments["bidirectional"] else 1)
    return len(call.arguments["params"]) > layers * (4 if call.arguments["has_biases"] else 2)


def _taken_apart(node: fx.Node) -> list[fx.Node]:
    """Return the core ATen operators that a captured one consists of; none where that cannot be found out here."""

    class Alone(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            given = dict(zip(node.all_input_nodes, tensors, strict=True))
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), given.__getitem__)
            made = node.target(*args, **kwargs)  # type: ignore[operator]
            read = called(node).read
            return tuple(made[i] for i in sorted(read)) if read else made

    examples = tuple(_example(source.meta.get("val")) for source in node.all_input_nodes)
    try:
        with warnings.catch_warnings(), quick_shapes():
            warnings.simplefilter("ignore")
            exported = in_core_operators(torch.export.export(Alone().eval(), examples))
    except Exception as error:  # torch.export's own share no base class but this; the export of the artifact will tell
        log.debug("%s is not taken apart: %s", node.target, error)
        return []
    exported.graph.eliminate_dead_code()
    return [n for n in exported.graph.nodes if _computes(n)]


def _example(value: Any) -> Any:
    """Return zeros like a captured tensor."""
    if isinstance(value, torch.Tensor):
        shape = [n if isinstance(n, int) else EXAMPLE_BATCH for n in value.shape]
        return torch.zeros(shape, dtype=value.dtype)
    return EXAMPLE_BATCH if isinstance(value, torch.SymInt) else value


def _in_onnx(node: fx.Node) -> bool:
    """Return whether ``torch.onnx`` has a form of a call, by its own table, or the exporter has."""
    if str(node.target) in _WRITTEN:
        return True
    from qat.adapters.torch.onnx_library import onnx_library  # takes a second, which few models need

    forms = onnx_library().get_decomps(node.target)  # type: ignore[arg-type]
    return any(form.is_complex == called(node).of_complex_numbers for form in forms)


def _place(node: fx.Node) -> str:
    """Return where a captured node stands in the user's code."""
    frames = re.findall(r'File "(.+?)", line (\d+).*\n\s*(.*)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not frame[0].startswith(NOT_THE_USERS)]
    return f" ({own[-1][0]}:{own[-1][1]} `{own[-1][2][:100]}`)" if own else ""
