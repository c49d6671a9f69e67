"""Numbers that a model reads from constants while it is captured: flags in buffers, masks of ones, lists of rates.

PyTorch captures with tensors that have no values, so that ``if mask.any():`` ends a capture, though no input takes part in the
mask. Here constants are computed beside the capture, for the example's sizes, for larger ones and for those of one sample: what
all of them give is a number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

log = logging.getLogger("qat")

#: What reads numbers from tensors.
_READS = frozenset(
    (
        Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__contains__,
        Tensor.is_nonzero, torch.is_nonzero, Tensor.equal, torch.equal, Tensor.allclose, torch.allclose,
    )
)  # fmt: skip
#: The sizes of the batches, from one of the example's.
_SIZES: tuple[Callable[[int], int], ...] = (lambda size: size, lambda size: size + 1, lambda size: 1)
#: Operators of Python that change their first argument.
_IN_PLACE = frozenset(
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
)


class KnownValues(TorchFunctionMode):
    """Lets a model that is captured read numbers from tensors that no input and no trained parameter takes part in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._constants = {name: x for name, x in _named(model) if not x.requires_grad}
        self._names: dict[int, tuple[str, Tensor]] = {}  # of the tensors that stand for the model's in a capture
        self._values = WeakIdKeyDictionary()  # of each tensor those in the batches, None where they are unknown

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch._C._meta_in_tls_dispatch_include():  # PyTorch looks for a shape
            return function(*args, **kwargs)
        if function in _READS:
            found = self._computed(function, args, kwargs)
            return found[0] if found and found == found[:1] * len(found) else function(*args, **kwargs)
        result = function(*args, **kwargs)
        result = list(result) if isinstance(result, Iterator) else result
        made = _tensors(result)
        changed = _changed(function, args, kwargs)
        if made or changed is not None:
            computed = self._computed(function, args, kwargs)
            if computed:
                self._values.update(zip(made, zip(*map(_tensors, computed), strict=True), strict=True))
            else:
                self._forget(changed)
                self._values.update((x, None) for x in made)
        return iter(result) if function is Tensor.__iter__ else result

    def _computed(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return what a function gives in each batch; nothing where an input, a trained parameter or chance takes part."""
        leaves, form = pytree.tree_flatten((args, kwargs))
        if any(isinstance(x, Tensor) and self._of(x) is None for x in leaves):
            return []
        results = []
        with _disable_current_modes():
            state = torch.get_rng_state()
            try:
                for batch in range(len(_SIZES)):
                    given, named = pytree.tree_unflatten([self._in_batch(x, batch) for x in leaves], form)
                    result = function(*given, **named)
                    results.append(list(result) if isinstance(result, Iterator) else result)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:  # such as of sizes that no batch has
                log.debug("%s is not computed: %s", function, error)
                return []
            if not torch.equal(state, torch.get_rng_state()):
                torch.set_rng_state(state)
                return []
        return results

    def _in_batch(self, x: Any, batch: int) -> Any:
        if isinstance(x, Tensor):
            return self._values[x][batch]
        return _number(x, _SIZES[batch]) if isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool)) else x

    def _of(self, x: Tensor) -> tuple[Tensor, ...] | None:
        """Return the values of a tensor in the batches; None where they are unknown."""
        if x not in self._values:
            if id(x) not in self._names:
                self._names = {id(held): (name, held) for name, held in _named(self._model)}
            name, _ = self._names.get(id(x), ("", x))
            plain = None if name or type(x) is not Tensor else x
            constant = self._constants.get(name, plain)
            with _disable_current_modes():
                self._values[x] = None if constant is None else tuple(constant.detach().clone() for _ in _SIZES)
        return self._values[x]

    def _forget(self, changed: Tensor | None) -> None:
        """Forget a tensor that unknown values have changed, with its views."""
        known = None if changed is None else self._of(changed)
        if known:
            place = known[0].untyped_storage().data_ptr()
            for x, values in list(self._values.items()):
                if values and values[0].untyped_storage().data_ptr() == place:
                    self._values[x] = None


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_buffers()
    yield from model.named_parameters()


def _tensors(result: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]


def _changed(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the tensor that a function changes."""
    name = getattr(function, "__name__", "")
    method = (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__set__") or name in _IN_PLACE
    changed = args[0] if args and (method or kwargs.get("inplace")) else kwargs.get("out")
    return changed if isinstance(changed, Tensor) else None


def _number(x: Any, size_of: Callable[[int], int]) -> Any:
    """Return a size in a batch, or what is computed from sizes.

    Raises:
        ValueError: it was read from a tensor.
    """
    node = x.node
    hints = {symbol: node.shape_env.backed_var_to_val.get(symbol) for symbol in node.expr.free_symbols}
    if None in hints.values():
        raise ValueError(f"{x} is a number of a tensor's values")
    value = node.expr.subs({symbol: size_of(int(hint)) for symbol, hint in hints.items()})
    return bool(value) if isinstance(x, torch.SymBool) else int(value) if isinstance(x, torch.SymInt) else float(value)
