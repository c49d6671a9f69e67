"""Handlers of custom layers: they name the kind of the neutral graph that a layer or operator of the user's own is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qat.errors import ConfigError, nearest

from .kinds import KINDS


@dataclass(frozen=True)
class Handled:
    """The meaning of a custom layer or operator: a kind of :data:`qat.graph.kinds.KINDS` on its input tensors, in their order.

    Attributes:
        kind: ``hard_swish``, ``mul``, ``dense``, ...
        attrs: the kind's attributes, such as ``{"alpha": 0.1}``.
        params: the kind's parameters by role. Keras: variables of the layer. PyTorch: arguments of the captured node.

    Raises:
        ConfigError: there is no such kind, or it has no such attribute or role.
    """

    kind: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS or KINDS[self.kind].framework:
            raise ConfigError(
                f"a handler says '{self.kind}'{nearest(self.kind, KINDS)}, which is no kind of qat.graph.kinds.KINDS"
            )
        kind = KINDS[self.kind]
        for what, given, valid in (
            ("parameter", self.params, kind.params),
            ("attribute", self.attrs, (*kind.attrs, "channel_axis")),
        ):
            for name in given:
                if name not in valid:
                    raise ConfigError(
                        f"a handler gives the {what} '{name}' of '{self.kind}', which has {', '.join(valid) or 'none'}"
                    )


#: Takes the Keras layer, or the captured node of the PyTorch operator; None leaves it float.
Handler = Callable[[Any], Handled | None]

#: By Keras layer class or PyTorch operator (``torch.ops.my.op.default``); filled by :func:`register_handler` alone.
HANDLERS: dict[Any, Handler] = {}


def register_handler(what: Any, handler: Handler) -> None:
    """Let models with a custom layer or operator run it on the integer grid; registering again replaces.

    Args:
        what: a Keras layer class, or a PyTorch operator as ``torch.export`` captures it, ``torch.ops.my.op.default``.
        handler: returns what the layer or node is.

    Raises:
        ConfigError: ``what`` is an instance, a module class or a function.

    Examples:
        >>> import keras, qat
        >>> class Swish6(keras.layers.Layer):
        ...     def call(self, x):
        ...         return x * keras.ops.relu6(x + 3) / 6
        >>> qat.register_handler(Swish6, lambda layer: qat.Handled("hard_swish"))
    """
    bases = {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in what.__mro__} if isinstance(what, type) else set()
    if "keras.Layer" not in bases and type(what).__name__ != "OpOverload":
        raise ConfigError(
            f"a handler is for a Keras layer class or a PyTorch operator (torch.ops.my.op.default), not {what!r}: a module of "
            "PyTorch is captured by its operators and needs none"
        )
    HANDLERS[what] = handler
