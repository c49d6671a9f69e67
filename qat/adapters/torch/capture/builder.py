"""The builder of the neutral graph: it answers the questions of rules, and collects the constants and tensors that they add."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, fx

from qat.errors import CaptureError
from qat.graph.graph import EXAMPLE_BATCH, Op, TensorSpec

from .batch_sizes import fixed_size, for_batch
from .free_sizes import scope_of
from .match import Match, is_tensor

#: Where the numbers in a model's code (``x + 3``) are kept as buffers.
NUMBERS = "_numbers"


class Builder:
    """Knows the parameters behind captured nodes, and collects the constants and tensors of the graph.

    Attributes:
        owner: the name of the parameter or buffer behind each captured placeholder.
        tensors: every parameter and buffer by name; a number in the model's code becomes one of them.
        folded: the captured nodes among ``owner`` that were evaluated.
        sizes: the symbols of sizes that are free beside the batch, with those of the examples.
        specs: the tensors of the graph.
    """

    def __init__(self, owner: Mapping[str, str], tensors: dict[str, Tensor], folded: Set[str] = frozenset()) -> None:
        self.owner, self.tensors, self.folded = owner, tensors, folded
        self.sizes: dict[Any, int] = {}
        self.specs: dict[str, TensorSpec] = {}
        self._constants: list[Op] = []

    # --- questions of the rules ---

    def is_constant(self, arg: Any) -> bool:
        """Return whether an operand is a parameter, a buffer or a number."""
        return not isinstance(arg, fx.Node) or arg.name in self.owner

    def is_operand(self, arg: Any) -> bool:
        """Return whether an argument is a float32 tensor, or a number that can be a constant of that type."""
        if not isinstance(arg, fx.Node):
            return isinstance(arg, (int, float))
        return is_tensor(arg) and arg.meta["val"].dtype == torch.float32

    def param(self, arg: Any) -> str | None:
        """Return the name of the float parameter behind an argument; None for anything else."""
        if isinstance(arg, fx.Node) and arg.name in self.owner:
            name = self.owner[arg.name]
            return name if self.tensors[name].is_floating_point() else None
        return None

    def params(self, **roles: Any) -> dict[str, str] | None:
        """Return the names of the parameters by role, without absent ones; None where one of them is computed."""
        named = {role: self.param(arg) for role, arg in roles.items() if arg is not None}
        return None if any(name is None for name in named.values()) else {k: v for k, v in named.items() if v is not None}

    # --- parts of the graph ---

    def take_sizes(self, captured: Any, example: Any, samples: int | None) -> None:
        """Take the free sizes of an input from its example; the axis that counts the samples is not among them."""
        shapes = (captured.shape, example.shape) if isinstance(captured, Tensor) else ((), ())
        for axis, (size, given) in enumerate(zip(*shapes, strict=True)):
            if axis != samples and not isinstance(size, int):
                self.sizes[size.node.expr] = given

    def describe(self, node: fx.Node) -> None:
        """Add the tensor of a captured node.

        Raises:
            CaptureError: the model takes batches of some numbers of samples alone.
        """
        value = node.meta["val"]
        try:
            shape = tuple(fixed_size(d, self.sizes) for d in value.shape)
            example = tuple(for_batch(d, EXAMPLE_BATCH, self.sizes) for d in value.shape)
        except ZeroDivisionError as error:  # a quotient of the batch, 0 for a small one
            raise CaptureError(
                f"layer '{scope_of(node) or node.name}' ({node.target}) joins several samples of the batch into one, so that "
                "the model takes some numbers of samples alone: give what it joins an axis of its own, [batch, parts, ...]"
            ) from error
        once = all(have in (size, EXAMPLE_BATCH) for have, size in zip(example, shape, strict=True))
        dtype = str(value.dtype).removeprefix("torch.")
        self.specs[node.name] = TensorSpec(node.name, shape, dtype, () if once else example)

    def fixed(self, arg: Any) -> Tensor | None:
        """Return the values of a float buffer, or of a parameter that is not trained; None for any other argument."""
        name = self.param(arg)
        return None if name is None or self.tensors[name].requires_grad else self.tensors[name]

    def derived(self, node: fx.Node, value: Tensor) -> str:
        """Add a constant that is computed from fixed ones, and return its name."""
        name = f"{NUMBERS}.{node.name}"
        self.tensors[name] = value.detach().float()
        return name

    def read_as_tensor(self, node: fx.Node, arg: fx.Node | float | str) -> str:
        """Return the name of an operand's tensor. A parameter or a number gets a constant, which has a tensor."""
        if isinstance(arg, fx.Node) and arg.name not in self.owner:
            return arg.name
        if isinstance(arg, fx.Node):
            name = self.owner[arg.name]
        elif isinstance(arg, str):
            name = arg
        else:
            name = f"{NUMBERS}.{node.name}"
            self.tensors[name] = torch.tensor(float(arg))
        folded = isinstance(arg, fx.Node) and arg.name in self.folded and arg.name
        tensor = folded or f"constant_{name.replace('.', '_')}"
        if tensor not in self.specs:
            self.specs[tensor] = TensorSpec(tensor, tuple(self.tensors[name].shape))
            self._constants.append(Op(tensor, "constant", (), (tensor,), {"value": name}, {}, scope_of(node)))
        return tensor

    def take_constants(self) -> list[Op]:
        """Return the constants added since the last call: they stand before the operator that reads them."""
        constants, self._constants = self._constants, []
        return constants


#: From a captured node to the operator it is; None for one that stays float.
Rule = Callable[[Builder, Any], Match | None]
