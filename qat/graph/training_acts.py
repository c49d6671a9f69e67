"""What a model does in training alone: dropout, stochastic depth, noise, augmentation.

These are no operators of the graph, which is that of evaluation and of the artifact. They stand beside it, each on a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .graph import Graph, Op
from .kinds import KINDS

#: The reader that stands for the model's outputs.
OUTPUT = "output"


@dataclass(frozen=True)
class TrainingAct:
    """A change of one tensor in training, which is the identity in evaluation.

    Attributes:
        name: by which the adapter keeps what computes it.
        what: the name that users read: ``Dropout(p=0.5)``.
        tensor: the tensor that is changed.
        readers: the operators that read the changed tensor, :data:`OUTPUT` among them; empty where everything does.
    """

    name: str
    what: str
    tensor: str
    readers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the act as JSON-ready values; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainingAct:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "readers": tuple(data["readers"])})


def placed(acts: Iterable[TrainingAct], graph: Graph, ops: Sequence[Op]) -> tuple[TrainingAct, ...]:
    """Return the acts on the tensors of planned operators.

    Where a tensor is no longer there, since BatchNorm was folded into its operator or an activation fused, the act stands behind
    what was joined: zeros stay zeros in an activation, and a folded BatchNorm has no values of its own.

    Args:
        acts: what the adapter found.
        graph: the traced graph, of whose tensors they tell.
        ops: the operators of the plan, in order.
    """
    there = {*graph.inputs, *(t for op in ops for t in op.outputs)}
    names = {op.name for op in ops} | {OUTPUT}
    consumers = graph.consumers()
    found = []
    for act in acts:
        tensor, readers = act.tensor, act.readers
        while tensor not in there and len(consumers.get(tensor, ())) == 1:
            tensor, readers = consumers[tensor][0].output, ()
        if tensor in there and (not readers or names.issuperset(readers)):
            found.append(replace(act, tensor=tensor, readers=readers))
    return tuple(found)


def looks_up(op: Op) -> bool:
    """Return whether a kernel knows only integers within the limits of its input: a table, a normalization, a softmax."""
    kind = KINDS[op.kind]
    return kind.function or kind.normalizes or op.kind == "softmax"


def touched(acts: Iterable[TrainingAct], ops: Sequence[Op]) -> frozenset[str]:
    """Return the tensors that can hold values off the grid in training: those that acts change, moved to other places too."""
    found = {act.tensor for act in acts}
    for op in ops:
        moves = KINDS[op.kind].carries or KINDS[op.kind].bounds is not None
        if moves and found.intersection(op.inputs):
            found.update(op.outputs)
    return frozenset(found)
