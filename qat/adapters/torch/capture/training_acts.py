"""What training adds to a captured model: dropout, stochastic depth, noise, of PyTorch's layers or of the user's own code.

The model is captured a second time, in training but for its normalization, and the two captures are laid over each other. Where
an operator reads a tensor that the first capture has in place of one that comes of it by a random operator, what lies between the
two is what training adds. No layer is known by name, and the first capture stays what it is.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from qat.errors import reason_of
from qat.graph.training_acts import OUTPUT, TrainingAct

from .attention import softmax
from .free_sizes import scope_of

aten = torch.ops.aten
log = logging.getLogger("qat")

#: Of a node's meta: its name before rewriting; what training changes of its inputs, by their names; the act on its attention.
_SOURCE, _ACTS, _ATTENTION = "source", "training_acts", "attention_act"

#: ``(x, p, train)``.
_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default)

#: What operators that drop call their probability.
_PROBABILITIES = ("dropout_p", "p")

#: What changes no number. Whether a capture has it depends on strides, and attention with dropout leaves others than without.
_COPIES = (aten.contiguous.default, aten.clone.default)

#: More operators than any act has between a tensor and its changed form: what is larger is another part of the model.
_LARGEST = 64


@dataclass(frozen=True)
class Act:
    """What training does with a tensor: the name that users read, and its computation."""

    what: str
    module: fx.GraphModule


def find_acts(
    model: nn.Module,
    examples: tuple[Any, ...],
    capture: Callable[[], torch.export.ExportedProgram],
    exported: torch.export.ExportedProgram,
) -> dict[str, Act]:
    """Find what training adds, and note at the nodes of a capture in eval mode which of their inputs it changes.

    Args:
        model: a copy of the float model, in eval mode.
        examples: with which it runs.
        capture: captures it in the mode that it is in.
        exported: its capture in eval mode, before rewriting.
    """
    _remove_dropouts(exported.graph, training=False)
    for node in exported.graph.nodes:
        node.meta[_SOURCE] = node.name
    for modules in (
        model.modules(),
        (m for m in model.modules() if not any(m.children()) or isinstance(m, nn.MultiheadAttention)),
    ):
        with _training([m for m in modules if not isinstance(m, _NormBase)], model):
            try:
                if not _draws(model, examples):
                    return {}
                trained = capture()
            except Exception as error:  # of whatever class the user's code in training raises
                log.debug("training is not captured: %s", error)
                failed = error
                continue
        _remove_dropouts(trained.graph, training=True)
        return _Overlay(exported, trained).acts()
    log.warning(
        "dropout is left out of training: %s cannot be captured in training mode (%s)", type(model).__name__, reason_of(failed)
    )
    return {}


@contextmanager
def _training(modules: Iterable[nn.Module], model: nn.Module) -> Iterator[None]:
    """Put modules into training mode, and all of the model back; what a pass does to buffers is undone."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        model.eval()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in before and not torch.equal(buffer, before[name]):
                    buffer.copy_(before[name])


class _Draws(TorchDispatchMode):
    """Notes whether an operator draws random numbers. Attention is a random operator that draws none without dropout."""

    drawn = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        self.drawn |= _is_random(func) and _probability(func, args, given) != 0
        return func(*args, **given)


def _probability(func: Any, args: Any, kwargs: Any) -> float | None:
    """Return the probability with which an operator drops; None of one that has no such argument."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name in _PROBABILITIES:
            return args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
    return None


def _draws(model: nn.Module, examples: tuple[Any, ...]) -> bool:
    devices = {t.device.index or 0 for t in model.state_dict().values() if t.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.no_grad(), _Draws() as seen:
        model(*examples)
    return seen.drawn


def _is_random(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def _remove_dropouts(graph: fx.Graph, training: bool) -> None:
    """Remove the dropouts that do nothing; ``training``: those of probability 0."""
    for node in list(graph.nodes):
        if node.target in _DROPOUTS and (node.args[1] == 0 if training else not node.args[2]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


class _Overlay:
    """The capture in training laid over that in eval mode.

    Attributes:
        twin: of a node of training, its like in eval mode.
        found: the acts by name.
    """

    def __init__(self, plain: torch.export.ExportedProgram, trained: torch.export.ExportedProgram) -> None:
        self.plain, self.trained = plain.graph, trained.graph
        inputs = _inputs(plain)
        self.twin = {node: inputs[key] for key, node in _inputs(trained).items() if key in inputs}
        self.found: dict[str, Act] = {}
        self.used: set[fx.Node] = set()

    def acts(self) -> dict[str, Act]:
        """Find each node's like, in order, and note what training changes of its inputs."""
        waiting = defaultdict(list)
        for node in self.trained.nodes:
            waiting[node.op, node.target].append(node)
        for node in self.plain.nodes:
            alike = waiting[node.op, node.target] if node.op in ("call_function", "output") else []
            for other in alike:
                if self._agree(node, other):
                    self.twin[other] = node
                    alike.remove(other)
                    break
        lost = [n for n in self.trained.nodes if _is_random(n.target) and n not in self.used and n not in self.twin]
        if lost:
            where = ", ".join(dict.fromkeys(scope_of(n) or n.name for n in lost[:3]))
            log.warning(
                "%d random operators of training are left out of the prepared model (%s): kept is what changes a tensor that "
                "evaluation has too, as nn.Dropout does",
                len(lost),
                where,
            )
        return self.found

    def _agree(self, node: fx.Node, other: fx.Node) -> bool:
        (mine, form), (theirs, their_form) = (pytree.tree_flatten(_arguments(n)) for n in (node, other))
        if form != their_form:
            return False
        changed: dict[fx.Node, fx.Node] = {}
        attention = 0.0
        for a, b in zip(mine, theirs, strict=True):
            if isinstance(a, fx.Node) and isinstance(b, fx.Node):
                like, changed_to = _copied(a), _copied(b)
                if self.twin.get(changed_to) is like:
                    continue
                if self._origin(changed_to) is not like or changed.setdefault(a, changed_to) is not changed_to:
                    return False
            elif a != b or type(a) is not type(b):
                if node.target is not aten.scaled_dot_product_attention.default or not isinstance(b, float):
                    return False
                attention = b
        sources = {_copied(a) for a in changed}
        if any(self.twin.get(_copied(b)) in sources for b in theirs if isinstance(b, fx.Node)):
            return False  # the tensor is read as it is too: x + dropout(x)
        for a, b in changed.items():
            act = self._act(b)  # rewriting takes copies away: then the node reads what was copied
            node.meta[_ACTS] = {**node.meta.get(_ACTS, {}), a.name: act, _copied(a).name: act}
        if attention:
            self.used.add(other)
            self.found[other.name] = Act(f"dropout of attention weights, p={attention:g}", _dropout(attention))
            node.meta[_ATTENTION] = other.name
        return True

    def _between(self, node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
        """Return the nodes from which a node of training follows: those without a like, and the tensors with one before them."""
        own: dict[fx.Node, None] = {}
        ends: dict[fx.Node, None] = {}
        waiting = [node]
        while waiting and len(own) <= _LARGEST:
            n = waiting.pop()
            if n in self.twin or n.op != "call_function":
                ends[n] = None
            elif n not in own:
                own[n] = None
                waiting += [a for a in n.all_input_nodes if isinstance(a.meta.get("val"), (Tensor, tuple, list))]
        return list(own), list(ends)

    def _origin(self, node: fx.Node) -> fx.Node | None:
        """Return the node of eval mode whose tensor training has changed at random into that of a node; None for any other."""
        own, ends = self._between(node)
        if len(ends) != 1 or not any(_is_random(n.target) for n in own) or len(own) > _LARGEST:
            return None
        (source,) = ends
        was, now = source.meta["val"], node.meta["val"]
        if not isinstance(was, Tensor) or not isinstance(now, Tensor):  # parts of a split, all together
            return None
        alike = was.shape == now.shape and was.dtype == now.dtype
        origin = self.twin.get(source)
        return _copied(origin) if origin is not None and alike and _sizes(own, source) is not None else None

    def _act(self, node: fx.Node) -> str:
        """Add the computation that ends in a node, and return its name."""
        if node.name not in self.found:
            own, (source,) = self._between(node)
            self.used.update(own)
            self.found[node.name] = Act(_what(own), _computation([n for n in self.trained.nodes if n in own], source, node))
        return node.name


def _copied(node: fx.Node) -> fx.Node:
    """Return the node that a node is a copy of, or the node itself."""
    while node.target in _COPIES:
        (node,) = node.all_input_nodes
    return node


def _arguments(node: fx.Node) -> list[Any]:
    """Return the arguments of a node, those that it leaves out at their defaults."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return [list(node.args), dict(node.kwargs)]
    given = dict(enumerate(node.args))
    names = enumerate(node.target._schema.arguments)
    return [given.get(i, node.kwargs.get(a.name, a.default_value)) for i, a in names if a.name != "device"]


def _inputs(exported: torch.export.ExportedProgram) -> dict[Any, fx.Node]:
    """Return the placeholders by what they stand for."""
    nodes = {n.name: n for n in exported.graph.nodes if n.op == "placeholder"}
    order = list(exported.graph_signature.user_inputs)
    specs = exported.graph_signature.input_specs
    return {
        s.target if s.target is not None else order.index(s.arg.name): nodes[s.arg.name] for s in specs if s.arg.name in nodes
    }


def _sizes(own: Iterable[fx.Node], source: fx.Node) -> dict[fx.Node, int] | None:
    """Return the axis of the source's tensor for each size that nodes read; None where one is no size of it."""
    shape = [str(size) for size in source.meta["val"].shape]
    read = {a for n in own for a in n.all_input_nodes if not isinstance(a.meta.get("val"), (Tensor, tuple, list))}
    sizes = {n: str(n.meta.get("val")) for n in read}
    return {n: shape.index(size) for n, size in sizes.items()} if all(size in shape for size in sizes.values()) else None


def _computation(own: list[fx.Node], source: fx.Node, result: fx.Node) -> fx.GraphModule:
    """Return nodes as a module of one tensor. What they make is made on that tensor's device."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    made: dict[fx.Node, fx.Node] = {source: x}
    for size, axis in (_sizes(own, source) or {}).items():
        made[size] = graph.call_function(aten.sym_size.int, (x, axis))
    device = graph.call_function(getattr, (x, "device")) if any("device" in n.kwargs for n in own) else None
    for node in own:
        made[node] = graph.node_copy(node, made.__getitem__)
        made[node].meta = {}
        if "device" in node.kwargs:
            made[node].kwargs = {**made[node].kwargs, "device": device}
    graph.output(made[result])
    return fx.GraphModule(nn.Module(), graph)


def _dropout(p: float) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.call_function(aten.dropout.default, (graph.placeholder("x"), p, True)))
    return fx.GraphModule(nn.Module(), graph)


def _what(own: list[fx.Node]) -> str:
    random = next(n for n in own if _is_random(n.target))
    stack = list(random.meta.get("nn_module_stack", {}).values())
    name = str(getattr(stack[-1][1], "__name__", stack[-1][1])).rpartition(".")[2] if stack else "dropout"
    if random.target in _DROPOUTS:
        return f"{name if 'ropout' in name else 'dropout'}, p={random.args[1]:g}"
    return f"random numbers of {name}"


def acts_of(graph: fx.Graph, found: dict[str, Act]) -> tuple[TrainingAct, ...]:
    """Return the acts on the tensors of a graph, from the notes at its nodes, which rewriting has kept."""
    readers: dict[tuple[str, fx.Node], list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        noted = node.meta.get(_ACTS, {})
        for read in node.all_input_nodes:
            act = noted.get(read.meta.get(_SOURCE))
            if read.target is softmax and read.meta.get(_SOURCE) == node.meta.get(_SOURCE):
                act = node.meta.get(_ATTENTION, act)
            if act is not None:
                readers[act, read].append(node)
    acts = []
    for (act, read), nodes in readers.items():
        others = [
            u for u in read.users if u not in nodes and (u.op == "output" or isinstance(u.meta.get("val"), (Tensor, tuple, list)))
        ]
        names = tuple(OUTPUT if n.op == "output" else n.name for n in nodes)
        acts.append(TrainingAct(act, found[act].what, read.name, names if others else ()))
    return tuple(acts)
