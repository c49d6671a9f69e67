"""Writes a PyTorch module operator by operator: what the reader of a file emits.

Each call runs at once on fake tensors, which have sizes and a type but no values, so that a reader knows the shape of all
it has written. The result is a :class:`torch.fx.GraphModule`: parameters have the names of the file's tensors, and the calls
of one operator of the file are a submodule of its name, so that a recipe's scope can name it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import SymInt, Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from qat.program.file_origin import ORIGIN, FileOrigin

#: What a size of a free axis is for the fake tensors: no number that a file's own sizes are likely to be.
_FREE = 7


@dataclass(frozen=True)
class Value:
    """A tensor, or the size of a free axis, in a module that is being written.

    Attributes:
        node: that computes it.
        fake: its fake tensor, or its symbolic size.
    """

    node: fx.Node
    fake: Tensor | SymInt

    @property
    def shape(self) -> tuple[int | SymInt, ...]:
        """Return the sizes of a tensor; that of a free axis is symbolic."""
        if not isinstance(self.fake, Tensor):
            raise TypeError(f"{self.node.name} is a size, not a tensor")
        return tuple(self.fake.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of a tensor."""
        if not isinstance(self.fake, Tensor):
            raise TypeError(f"{self.node.name} is a size, not a tensor")
        return self.fake.dtype


#: What a call takes: values, plain numbers and flags, and sequences of them.
Argument: TypeAlias = "Value | int | float | bool | str | torch.dtype | Sequence[Argument] | None"


class FileOperator(nn.Module):
    """The calls of one operator of a file, in a submodule that bears its name."""

    def __init__(self, calls: fx.GraphModule) -> None:
        super().__init__()
        # In a tuple the calls are no submodule: torch.export records the names of modules, but not of an fx.GraphModule.
        self._calls = (calls,)

    def forward(self, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the operator's outputs."""
        result: Tensor | tuple[Tensor, ...] = self._calls[0](*values)
        return result

    def extra_repr(self) -> str:
        """Return the calls, as Python code."""
        return self._calls[0].code.strip()


class ModuleWriter:
    """Writes the calls of a module in their order.

    Examples:
        >>> import numpy as np, torch
        >>> writer = ModuleWriter()
        >>> x = writer.input("image", (None, 3, 8, 8), torch.float32)
        >>> with writer.operator("stem/conv"):
        ...     weight = writer.parameter("stem/kernel", np.ones((4, 3, 3, 3), np.float32))
        ...     y = writer.call(torch.nn.functional.conv2d, x, weight, None, 2)
        >>> y.shape[1:]
        (4, 3, 3)
        >>> module = writer.finish([y])
        >>> [name for name, _ in module.named_parameters()]
        ['stem.kernel']
        >>> tuple(module(torch.zeros(5, 3, 8, 8)).shape)
        (5, 4, 3, 3)
    """

    def __init__(self) -> None:
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=False)
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._held: dict[tuple[tuple[int, ...], bytes] | None, str] = {}
        self._operator = ""

    # --- what the calls read ---

    def input(self, name: str, shape: Sequence[int | None], dtype: torch.dtype, example: Sequence[int | None] = ()) -> Value:
        """Add an input; None is the size of a free axis, one for each such axis.

        ``example`` has sizes that the model takes; a free axis without one is written with :data:`_FREE`, which is too small for
        a model that halves an image five times.
        """
        sizes = [_FREE if size is None else size for size in example or shape]
        dynamic = [DimDynamic.DYNAMIC if size is None else DimDynamic.STATIC for size in shape]
        context = StatelessSymbolicContext(dynamic_sizes=dynamic)  # type: ignore[var-annotated]
        fake = self._mode.from_tensor(
            torch.empty(sizes, dtype=dtype), symbolic_context=context, source=ConstantSource(f"input_{len(self._graph.nodes)}")
        )
        node = self._graph.placeholder(_identifier(name))
        return Value(node, fake)

    def parameter(self, name: str, array: np.ndarray) -> Value:
        """Add a weight that is trained; it gets the file's name, with ``.`` for ``/``. A name given again is the same weight.

        So is a matrix, or a tensor of more axes, that equals one given before: exporters write a tied weight twice, once turned.
        """
        return self._tensor(name, array, lambda tensor: nn.Parameter(tensor))

    def buffer(self, name: str, array: np.ndarray) -> Value:
        """Add a tensor that is not trained: of integers, or a constant of the model's code."""
        return self._tensor(name, array, None)

    # --- what is written ---

    @contextmanager
    def operator(self, name: str) -> Iterator[None]:
        """Write the calls of one operator of the file, whose name becomes that of a submodule."""
        before, self._operator = self._operator, name
        try:
            yield
        finally:
            self._operator = before

    def call(self, function: Callable[..., object], *args: Argument, **kwargs: Argument) -> Value:
        """Write a call that returns one tensor or one size, and run it on fake tensors.

        Raises:
            Exception: whatever PyTorch raises where the arguments do not fit together.
        """
        fake = self._run(function, args, kwargs)
        if not isinstance(fake, (Tensor, SymInt)):
            raise TypeError(f"{function} returned {type(fake).__name__}: write a call that returns one tensor, or use calls")
        return Value(self._write(function, args, kwargs), fake)

    def call_like(self, value: Value, function: Callable[..., object], *args: Argument, **kwargs: Argument) -> Value:
        """Write a call whose result has the shape and type of a value: it is not run, which takes most of the time."""
        return Value(self._write(function, args, kwargs), value.fake)

    def calls(self, function: Callable[..., object], *args: Argument, **kwargs: Argument) -> list[Value]:
        """Write a call that returns several tensors, and one access for each of them."""
        fakes = self._run(function, args, kwargs)
        if not isinstance(fakes, (tuple, list)) or not all(isinstance(fake, Tensor) for fake in fakes):
            raise TypeError(f"{function} returned {type(fakes).__name__}, not several tensors")
        node = self._write(function, args, kwargs)
        return [Value(self._access(node, index), fake) for index, fake in enumerate(fakes)]

    def size(self, value: Value, axis: int) -> Value | int:
        """Return the size of an axis: a number, or a value where the axis is free.

        Sizes are computed with by :meth:`arithmetic`.
        """
        return self.arithmetic(torch.ops.aten.sym_size.int, value, axis)

    def arithmetic(self, function: Callable[..., object], *sizes: Value | float) -> Value | int:
        """Compute with sizes, as ``operator.mul`` does; the result is a number where all of ``sizes`` are numbers."""
        fake = self._run(function, sizes, {})
        return fake if isinstance(fake, int) else Value(self._write(function, sizes, {}), fake)  # type: ignore[arg-type]

    def finish(self, outputs: Sequence[Value], origin: FileOrigin | None = None) -> fx.GraphModule:
        """Return the module in eval mode, with its origin in ``meta``. It returns a tensor, or a tuple of several outputs."""
        nodes = tuple(value.node for value in outputs)
        self._graph.output(nodes[0] if len(nodes) == 1 else nodes)
        self._graph.eliminate_dead_code()
        grouped = _group(self._graph, self._root, self._free_name)
        module = fx.GraphModule(self._root, grouped)
        module.delete_all_unused_submodules()
        if origin is not None:
            module.meta[ORIGIN] = origin
        return module.eval()

    # --- how ---

    def _tensor(self, name: str, array: np.ndarray, wrap: Callable[[Tensor], Tensor] | None) -> Value:
        tensor = torch.from_numpy(np.array(array, order="C"))
        if name not in self._names:
            content = None if wrap is None else _content(tensor)
            self._names[name] = self._held.get(content) or self._register(name, tensor if wrap is None else wrap(tensor))
            if content is not None:
                self._held[content] = self._names[name]
        node = self._graph.create_node("get_attr", self._names[name])
        return Value(node, self._mode.from_tensor(tensor, static_shapes=True))

    def _register(self, name: str, tensor: Tensor) -> str:
        """Register a parameter or a buffer, and return its path."""
        path = self._free_name(_path(name))
        owner, _, last = path.rpartition(".")
        module = _module_at(self._root, owner)
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(last, tensor)
        else:
            module.register_buffer(last, tensor)
        return path

    def _free_name(self, path: str) -> str:
        """Return a path that is neither taken, nor above or below a taken one, and take it."""
        number = 0
        flat = path.replace(".", "_")  # of one part, so that a number at its end makes it free
        while any(f"{path}.".startswith(f"{taken}.") or taken.startswith(f"{path}.") for taken in self._taken):
            number += 1
            path = f"{flat}_{number}"
        self._taken.add(path)
        return path

    def _run(self, function: Callable[..., object], args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> object:
        # PyTorch's own shape functions, in Python, keep a free size free where those in C++ make it a number.
        with self._mode, enable_python_dispatcher(), torch.no_grad():
            return function(*_map(args, lambda v: v.fake), **{key: _map(arg, lambda v: v.fake) for key, arg in kwargs.items()})

    def _write(self, function: Callable[..., object], args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> fx.Node:
        written = {key: _map(arg, lambda v: v.node) for key, arg in kwargs.items()}
        node = self._graph.call_function(function, _map(args, lambda v: v.node), written)
        node.meta["operator"] = self._operator
        return node

    def _access(self, node: fx.Node, index: int) -> fx.Node:
        import operator

        taken = self._graph.call_function(operator.getitem, (node, index))
        taken.meta["operator"] = self._operator
        return taken


def _content(tensor: Tensor) -> tuple[tuple[int, ...], bytes] | None:
    """Return what tells a matrix, or a tensor of more axes, from others; None where it holds but one number, as many do."""
    if tensor.ndim < 2 or not tensor.numel() or bool((tensor == tensor.reshape(-1)[:1]).all()):
        return None
    return tuple(tensor.shape), hashlib.blake2b(tensor.numpy().data).digest()


def _map(argument: Argument, of: Callable[[Value], object]):  # type: ignore[no-untyped-def]
    """Replace the values in an argument."""
    if isinstance(argument, Value):
        return of(argument)
    if isinstance(argument, (list, tuple)):
        return type(argument)(_map(item, of) for item in argument)
    return argument


def _identifier(name: str) -> str:
    """Return a name that Python takes for one of a variable."""
    text = re.sub(r"\W", "_", name)
    return text if text and not text[0].isdigit() else f"_{text}"


def _path(name: str) -> str:
    """Return the path of a module or parameter for the name of a file's operator or tensor."""
    parts = [re.sub(r"\W+", "_", part).strip("_") or "_" for part in re.split(r"[./]+", name.strip("./ ")) if part]
    reserved = [f"{part}_" if hasattr(nn.Module, part) or hasattr(fx.GraphModule, part) else part for part in parts]
    return ".".join(reserved) or "_"


def _module_at(root: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a path, with those above it; made where it is missing."""
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def _group(graph: fx.Graph, root: nn.Module, free_name: Callable[[str], str]) -> fx.Graph:
    """Return the graph with each run of calls of one operator as a submodule of ``root`` that bears the operator's name."""
    runs: list[list[fx.Node]] = []
    for node in graph.nodes:
        name = node.meta.get("operator", "")
        if node.op == "call_function" and name and runs and runs[-1][-1].meta.get("operator") == name:
            runs[-1].append(node)
        elif node.op != "get_attr":
            runs.append([node])
    # Tensors are read at the head, so that they do not part the calls of an operator.
    outer = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    attributes = [node for node in graph.nodes if node.op == "get_attr"]
    for node in [*(n for n in graph.nodes if n.op == "placeholder"), *attributes]:
        copies[node] = outer.node_copy(node, copies.__getitem__)
    for run in runs:
        if run[0].op == "placeholder":
            continue
        if not run[0].meta.get("operator"):
            copies[run[0]] = outer.node_copy(run[0], copies.__getitem__)
            continue
        inside = set(run)
        read = list(dict.fromkeys(n for node in run for n in node.all_input_nodes if n not in inside))
        given = [node for node in run if any(user not in inside for user in node.users)]
        path = free_name(_path(run[0].meta["operator"]))
        owner, _, last = path.rpartition(".")
        _module_at(root, owner).add_module(last, FileOperator(fx.GraphModule({}, _subgraph(run, read, given))))
        called = outer.call_module(path, tuple(copies[n] for n in read))
        for index, node in enumerate(given):
            copies[node] = called if len(given) == 1 else outer.call_function(_item, (called, index))
    return outer


def _item(values: Sequence[Tensor], index: int) -> Tensor:
    return values[index]


def _subgraph(run: Sequence[fx.Node], read: Sequence[fx.Node], given: Sequence[fx.Node]) -> fx.Graph:
    inner = fx.Graph()
    copies = {node: inner.placeholder(node.name) for node in read}
    for node in run:
        copies[node] = inner.node_copy(node, copies.__getitem__)
    outputs = tuple(copies[node] for node in given)
    inner.output(outputs[0] if len(outputs) == 1 else outputs)
    return inner
