"""Free sizes: axes of images, signals, volumes or tokens that may have any size, beside the batch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from qat.errors import CaptureError, ConfigError, nearest, reason_of
from qat.graph.graph import AXES, AXIS_NAMES, TOKENS, axis_name
from qat.system.silence import quiet


def free_axes(inputs: Sequence[Any], names: Sequence[str]) -> list[list[int]]:
    """Return the axes of each input that may have any size.

    Raises:
        ConfigError: a name is unknown, or no input has such an axis.
    """
    tokens = _sizes_of_tokens(inputs) if TOKENS in names else set()
    ranks = [x.ndim if isinstance(x, torch.Tensor) else 0 for x in inputs]
    for name in names:
        if name not in AXIS_NAMES:
            known = ", ".join(AXIS_NAMES)
            raise ConfigError(f"dynamic: '{name}'{nearest(name, AXIS_NAMES)} is none of {known}; the batch always is")
        if not (tokens if name == TOKENS else any(name in AXES.get(rank, ()) for rank in ranks)):
            said = "tokens" if name == TOKENS else f"a {name}"
            raise ConfigError(f"dynamic: no input has {said}; the inputs have {', '.join(map(str, ranks))} axes")
    by_name = [[2 + i for i, name in enumerate(AXES.get(rank, ())) if name in names] for rank in ranks]
    return [sorted({*free, *_axes_of(x, tokens)}) for x, free in zip(inputs, by_name, strict=True)]


def _sizes_of_tokens(inputs: Sequence[Any]) -> set[int]:
    """Return how many tokens inputs hold: indices ``[batch, tokens]``; without any, vectors ``[batch, tokens, values]``."""
    held = [x for x in inputs if isinstance(x, torch.Tensor)]
    indices = {x.shape[1] for x in held if x.ndim == 2 and not x.is_floating_point()}
    return indices or {x.shape[1] for x in held if x.ndim == 3}


def _axes_of(x: Any, sizes: set[int]) -> list[int]:
    """Return the axes of an input, behind the batch, of one of some sizes: a mask ``[batch, 1, tokens, tokens]`` has two."""
    return [axis for axis, n in enumerate(x.shape) if axis and n in sizes] if isinstance(x, torch.Tensor) else []


def check_free(
    exported: torch.export.ExportedProgram, inputs: Sequence[Any], axes: Sequence[Sequence[int]], names: Sequence[str]
) -> None:
    """Compute the shapes of a captured model for inputs of twice the size along the free axes, and of a token less.

    A model has places for so many tokens; the example may have all of them.

    Raises:
        CaptureError: a layer, which the message names, takes one size only, or the capture made a size a number.
    """
    tokens = _sizes_of_tokens(inputs) if TOKENS in names else set()
    run_with(exported, [_resized(x, free, tokens) for x, free in zip(inputs, axes, strict=True)])
    given = exported.graph_signature.user_inputs
    users = [n for n in exported.graph.nodes if n.op == "placeholder" and n.name in given]
    for node, free in zip(users, axes, strict=True):
        for axis in free:
            size = node.meta["val"].shape[axis]
            if isinstance(size, int) or not size.node.expr.free_symbols:
                name = axis_name(node.meta["val"].ndim, axis)
                raise CaptureError(
                    f"the {name} of input '{node.name}' cannot be free: the model computes with it as the number {int(size)}; "
                    "take sizes from the tensors' shapes, or leave it out of dynamic"
                )


def run_with(exported: torch.export.ExportedProgram, inputs: Sequence[Any]) -> dict[fx.Node, Any]:
    """Return what each node of a captured model computes for inputs of other sizes, as shapes without values.

    Raises:
        CaptureError: a layer, which the message names, does not take them.
    """
    owner, given = exported.graph_signature, iter(inputs)
    names = {**owner.inputs_to_parameters, **owner.inputs_to_buffers, **owner.inputs_to_lifted_tensor_constants}
    tensors = {**exported.state_dict, **exported.constants}
    nodes = [n for n in exported.graph.nodes if n.op == "placeholder"]
    with quiet(), FakeTensorMode() as mode:
        held = [tensors[names[n.name]] if n.name in names else next(given) for n in nodes]
        run = _AtAnotherSize(exported.graph_module)
        run.extra_traceback = False  # PyTorch would append it to the message
        run.run(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in held))
    return run.results


def _resized(x: Any, axes: Sequence[int], tokens: Set[int]) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    other = {n: n - 1 if n in tokens and n > 2 else 2 * n for n in x.shape}
    return torch.empty([other[n] if axis in axes else n for axis, n in enumerate(x.shape)], dtype=x.dtype, device=x.device)


class _AtAnotherSize(fx.Interpreter):
    """Runs a graph, keeps what its nodes return, and names the layer that fails."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.results: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            return self.results.setdefault(n, super().run_node(n))
        except Exception as error:  # PyTorch's operators raise what they like
            reason = textwrap.shorten(reason_of(error), 140, placeholder=" ...").rstrip(".")
            raise CaptureError(
                f"layer '{scope_of(n) or n.name}' ({n.target}) takes one size only, so that no size can be dynamic: "
                f"{reason}. Let it read a tensor of fixed size (AdaptiveAvgPool2d(1), a mean), or leave out dynamic"
            ) from error


def scope_of(node: fx.Node) -> str:
    """Return the path of the layer that a captured node comes from."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""
