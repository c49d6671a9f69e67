"""Capture by ``torch.export`` in eval mode. In-place operators become functional; each operation gets one form."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.distributions import Distribution
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from qat.adapters.torch.nests import Nest, opened
from qat.adapters.torch.signature import TORCHSCRIPT, Call, Signature
from qat.errors import CaptureError
from qat.system.sample_axes import Axes, is_batch_first, of_first_alone, sample_axes
from qat.system.silence import quiet

from .any_batch import ForAnyBatch
from .batch_sizes import for_one_alone
from .channel_factors import fold_channel_factors
from .computed_weights import lift_computed_weights, of_parameters
from .decompose import functional
from .einsums import open_einsums
from .equal_rows import fold_equal_rows
from .float_copy import copy_of
from .free_sizes import check_free, free_axes, run_with
from .known_values import KnownValues
from .parameter_products import as_layers
from .quick_shapes import quick_shapes
from .regions import inline_regions, is_mapped
from .rewrites import rewrite
from .training_acts import Act, find_acts

aten = torch.ops.aten
log = logging.getLogger("qat")
_NARROW = {torch.float16, torch.bfloat16}

#: How the names of files begin that are not the user's: those of PyTorch, of this package, and of generated code.
NOT_THE_USERS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[3]}{os.sep}", "<")


@dataclass(frozen=True)
class Captured:
    """A model as ATen operators, whose inputs and outputs are flat tuples of tensors.

    Attributes:
        exported: the operators.
        examples: the input tensors with which the model was run.
        axes: of each of them that which counts the samples; None of one without.
        signature: the form in which the user's model takes and returns them.
        acts: what training adds, by its name.
    """

    exported: torch.export.ExportedProgram
    examples: tuple[Tensor, ...]
    axes: Axes
    signature: Signature
    acts: dict[str, Act]


def capture(model: nn.Module, call: Call, dynamic: Sequence[str] = (), dropout: bool = True) -> Captured:
    """Capture a model in eval mode, for any batch size, as ATen operators that return one tensor each where they can.

    ``dynamic`` names further axes of the inputs that are to be of any size, see :data:`qat.graph.graph.AXES`. With
    ``dropout``, what training adds is found too, see :mod:`qat.adapters.torch.capture.training_acts`.

    Raises:
        CaptureError: torch.export cannot capture it; the message carries the user's line and what to do.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise CaptureError(TORCHSCRIPT.format(type(model).__name__))
    if any(p.is_meta for p in model.parameters()):
        raise CaptureError(f"{type(model).__name__} has no weights: its parameters are on the device 'meta': load them first")
    held = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if held and torch.float32 not in held:
        whole = ", which changes no weight," if held <= _NARROW else ""
        raise CaptureError(
            f"{type(model).__name__} holds {' and '.join(sorted(str(t).removeprefix('torch.') for t in held))} weights, and the "
            f"integer grid is for float32 models: pass model.float(){whole} and float32 inputs"
        )
    signature, given = call.signature(), tuple(call.tensors.values())
    free = free_axes(given, dynamic)
    copied = copy_of(model).eval()
    flat = _Flat(copied, call, signature)
    with _explained(model), _capturing():
        axes, (captured, examples) = _along_some_axes(copied, given, free)
        exported = _functional(_without_vmap(captured))
    if dynamic:
        check_free(exported, examples, free, dynamic)
    outputs = flat.outputs or _form_of_outputs(exported)
    taken_apart = exported is not captured

    def in_training() -> torch.export.ExportedProgram:
        with _capturing():
            again = _without_vmap(_any_batch(copied, given, axes, free)[0])
            return functional(again) if taken_apart else _functional(again, lenient=True)

    acts = find_acts(copied, examples, in_training, exported) if dropout else {}
    owner, tensors = owners(model, exported), {**exported.state_dict, **exported.constants}
    fold_equal_rows(exported.graph, owner, tensors, examples, axes)
    derived = of_parameters(exported.graph, owner, tensors)
    open_einsums(exported.graph, derived)
    as_layers(exported.graph, derived)
    fold_channel_factors(exported.graph, derived, owner, tensors)
    lift_computed_weights(exported.graph, owner, tensors)
    rewrite(exported.graph)
    return Captured(exported, examples, axes, replace(signature, outputs=outputs), acts)


def plain(model: nn.Module, call: Call) -> torch.export.ExportedProgram:
    """Return a model in eval mode, for any batch size, as ``torch.export`` gives it, its inputs and outputs flat.

    Raises:
        CaptureError: as of :func:`capture`.
    """
    copied, given = copy_of(model).eval(), tuple(call.tensors.values())
    _Flat(copied, call, call.signature())
    with _explained(model), _capturing():
        _, (exported, _) = _along_some_axes(copied, given, free_axes(given, ()))
    return exported


def owners(model: nn.Module, exported: torch.export.ExportedProgram) -> dict[str, str]:
    """Return the name of the parameter, buffer or constant behind each placeholder; a tied parameter has one name, its first."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}
    signature = exported.graph_signature
    return {
        **{placeholder: names.get(name, name) for placeholder, name in signature.inputs_to_parameters.items()},
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }


def _form_of_outputs(exported: torch.export.ExportedProgram) -> Nest | None:
    """Return the form of the outputs that torch.export saw: of an FX graph it runs the nodes, and no ``forward``."""
    spec = exported.call_spec.out_spec
    assert spec is not None
    form, _ = opened(pytree.tree_unflatten([0] * spec.num_leaves, spec))
    return form


class _Flat:
    """A model whose ``forward`` takes tensors, and returns a tuple of tensors.

    ``forward`` is replaced, and not the model put into another one: parameters and layers keep their names.

    Attributes:
        outputs: the form of the model's own outputs, once it has run; None where that is one tensor.
    """

    def __init__(self, model: nn.Module, call: Call, signature: Signature) -> None:
        self.outputs: Nest | None = None
        own = model.forward
        method = getattr(own, "__func__", None) if getattr(own, "__self__", None) is model else None

        def forward(module: nn.Module, *tensors: Tensor) -> Any:
            args, kwargs = call.with_tensors(tensors).split()
            # A closure's layers Dynamo would name by their path through the closure; an argument is the model to it.
            form, leaves = opened(method(module, *args, **kwargs) if method else own(*args, **kwargs))
            if form is None:
                return leaves[0]
            if not torch.compiler.is_dynamo_compiling():  # Dynamo runs no code, and would set what it has traced
                self.outputs = form
            return tuple(leaf if isinstance(leaf, Tensor) else None for leaf in leaves)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = ("self", *signature.inputs.values())
        forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
        # In a class of its own: of an attribute Dynamo would name the model's constants by their path through the method.
        vars(model).pop("forward", None)
        model.__class__ = type(type(model).__name__, (type(model),), {"forward": forward, "__module__": type(model).__module__})


@contextlib.contextmanager
def _explained(model: nn.Module) -> Iterator[None]:
    """Raise what a capture fails with as a :class:`CaptureError`."""
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(_explain(model, error)) from error


@contextlib.contextmanager
def _capturing() -> Iterator[None]:
    """Let torch.export run models without gradients and notices, quickly, and for any batch."""
    checks = Distribution._validate_args
    Distribution.set_default_validate_args(False)  # they branch on values
    try:
        with torch.no_grad(), quiet(), quick_shapes(), ForAnyBatch():
            yield
    finally:
        Distribution.set_default_validate_args(checks)


def _along_some_axes(
    model: nn.Module, given: tuple[Tensor, ...], free: Sequence[Sequence[int]]
) -> tuple[Axes, tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]]:
    """Return the axis of each input that counts the samples, and :func:`_any_batch` along these.

    The sizes tell, as in :func:`qat.system.sample_axes.sample_axes`; but where that is not the first axis of the first input, the
    others may belong to all samples, as a mask does. So it is where the model can then be captured for any batch.

    Raises:
        CaptureError: the inputs are of no common batch.
    """
    sized = [tuple(x.shape) for x in given if x.ndim]
    _, of_sized = sample_axes(sized)
    alone = None if not of_sized or is_batch_first(of_sized) else of_first_alone([tuple(x.shape) for x in given])
    if alone is not None and (free_along := _if_free(model, given, alone, free)):
        return alone, free_along
    whole = None in of_sized
    if not of_sized or (whole and sized[0][0] != 1):
        first = sorted({shape[0] for shape in sized})
        raise CaptureError(
            f"the example inputs have first dimensions {first}: pass tensors that share one batch size, batch first, or samples "
            "along one axis of each"
        )
    left = iter(of_sized)
    axes = tuple(None if not x.ndim or whole else next(left) for x in given)
    found = _any_batch(model, given, axes, free)
    shared = _beside_the_first(sized) if is_batch_first(axes) and len(sized) == len(given) else None
    # Fixed, the batch may only equal a size of what all samples share.
    if shared is not None and _is_fixed(found[0], axes) and (free_along := _if_free(model, given, shared, free)):
        return shared, free_along
    return axes, found


def _if_free(
    model: nn.Module, given: tuple[Tensor, ...], axes: Axes, free: Sequence[Sequence[int]]
) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]] | None:
    """Return :func:`_any_batch` along axes; None where the model takes no batch of any size along these."""
    try:
        found = _any_batch(model, given, axes, free)
    except Exception as error:  # torch.export's own share no base class but this
        log.debug("the samples are not along %s: %s", axes, error)
        return None
    return None if _is_fixed(found[0], axes) else found


def _beside_the_first(shapes: Sequence[tuple[int, ...]]) -> Axes | None:
    """Return the axes where inputs of no sizes but those of the first one's samples belong to all of these; None without any."""
    own = set(shapes[0][1:])
    axes: Axes = (0, *(None if own.issuperset(shape) else 0 for shape in shapes[1:]))
    return axes if None in axes else None


def _any_batch(
    model: nn.Module, given: tuple[Tensor, ...], axes: Axes, free: Sequence[Sequence[int]]
) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
    """Capture a model by running two samples; where that fixes the batch, three, and then from its bytecode.

    A model that keeps sizes from call to call (the anchors of YOLO) compares the batch with the one that it saw last: the
    capture learns "is that number" of the same batch, and "is another" of any other. ``len(x)`` is a plain number in a run,
    and a size for Dynamo, which on the other hand captures fewer models. Of more samples torch.export cannot solve some
    equations, such as those of the halves of a batch; but a model may take no batch but that of its examples: then the batch
    is a number.

    Returns:
        The capture, and the examples that fit it.
    """

    shapes: tuple[Any, ...] = tuple(
        None if axis is None else dict.fromkeys((axis, *others), torch.export.Dim.AUTO)
        for axis, others in zip(axes, free, strict=True)
    )

    def captured(examples: tuple[Tensor, ...], strict: bool = False) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
        def export() -> torch.export.ExportedProgram:
            return torch.export.export(model, examples, dynamic_shapes=shapes, strict=strict)

        try:
            return export(), examples
        except GuardOnDataDependentSymNode:
            with KnownValues(model):  # it doubles the time of a capture, so not at first
                return export(), examples

    if not any(shapes):
        return captured(given)
    two, three = (_samples(given, axes, count) for count in (2, 3))  # of one sample torch.export would make a constant
    try:
        found = captured(two)
    except Exception:  # torch.export's own share no base class but this
        if _batch_of(given, axes) == 2:
            raise
        found = captured(given)
    if not _is_fixed(found[0], axes):
        return found
    for examples, strict in ((three, False), (two, True)):
        try:
            again = captured(examples, strict)
        except Exception as error:
            log.debug("the batch stays fixed: %s", error)
            continue
        if not _is_fixed(again[0], axes):
            return again
    if _batch_of(found[1], axes) != _batch_of(given, axes):
        if _takes(found[0], given, axes):
            return found
        found = captured(given)
    if _takes(found[0], two if _batch_of(given, axes) != 2 else three, axes):
        return found
    shapes = tuple(
        of_input and ({axis: size for axis, size in of_input.items() if axis != samples} or None)
        for of_input, samples in zip(shapes, axes, strict=True)
    )
    return captured(given)  # all sizes are numbers then, as they are in the file


def _samples(examples: tuple[Tensor, ...], axes: Axes, count: int) -> tuple[Tensor, ...]:
    """Return so many samples of examples; of fewer, the first ones once more."""
    return tuple(
        x if axis is None else x.index_select(axis, torch.arange(count, device=x.device) % x.shape[axis])
        for x, axis in zip(examples, axes, strict=True)
    )


def _batch_of(examples: tuple[Tensor, ...], axes: Axes) -> int:
    return next(x.shape[axis] for x, axis in zip(examples, axes, strict=True) if axis is not None)


def _takes(exported: torch.export.ExportedProgram, examples: tuple[Tensor, ...], axes: Axes) -> bool:
    """Whether captured operators take other examples than those of the capture, and no size but the first follows from these.

    Then a guard alone has made the batch a number. Of inputs with another axis of samples that is not told from the sizes.
    """
    if any(axes):
        return False
    try:
        found = run_with(exported, examples)
    except CaptureError:
        return False
    tensors = ((n.meta["val"], result) for n, result in found.items() if isinstance(result, Tensor))
    return all(int(a) == b for then, now in tensors for a, b in zip(then.shape[1:], now.shape[1:], strict=True))


def _is_fixed(exported: torch.export.ExportedProgram, axes: Axes) -> bool:
    """Whether an input's axis of samples was captured as a number, or for one number alone."""
    inputs = set(exported.graph_signature.user_inputs)
    values = [n.meta["val"] for n in exported.graph.nodes if n.op == "placeholder" and n.name in inputs]
    sizes = [v.shape[axis] for v, axis in zip(values, axes, strict=True) if isinstance(v, torch.Tensor) and axis is not None]
    # A symbol that a guard made a number is no int yet; its expression is that number.
    return any(isinstance(size, int) or not size.node.expr.free_symbols or for_one_alone(size) for size in sizes)


def _without_vmap(captured: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write what ``torch.vmap`` repeats (masks in transformers) as operators on whole tensors, and regions as their operators."""
    found = functional(captured) if is_mapped(captured.graph) else captured
    inline_regions(found.graph_module)
    return found


def _functional(exported: torch.export.ExportedProgram, lenient: bool = False) -> torch.export.ExportedProgram:
    """Replace in-place operators that survive the capture by those that return their result; ``lenient``: where one is known."""
    graph = exported.graph
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
            continue
        changed = node.args[0]
        packet = getattr(aten, node.target._opname.removesuffix("_"), None)
        overload = getattr(packet, node.target._overloadname or "default", None)
        if overload is None or not isinstance(changed, fx.Node) or not _is_changed_alone(changed):
            if lenient:
                continue
            # PyTorch's own pass handles all other cases, but takes BatchNorm apart.
            return functional(exported)
        node.target = overload
        after = {user for user in changed.users if order[user] > order[node]}
        changed.replace_all_uses_with(node, delete_user_cb=after.__contains__)
    return exported


def _is_changed_alone(node: fx.Node) -> bool:
    """Whether nothing else reads what an operator changes in place: a result, or the one view of a result."""
    while _is_view(node):
        source = node.args[0]
        if not isinstance(source, fx.Node) or len(source.users) > 1:
            return False
        node = source
    return node.op != "placeholder"


def _is_view(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and any(r.alias_info is not None for r in node.target._schema.returns)


#: What is said of a model that packs sequences.
_OF_PACKED = (
    "a packed sequence has as many steps as the values of the lengths say, and a file has fixed ones. Give the recurrent layer "
    "the padded tensor, and take what the lengths name from its output; a layer that also reads backwards reads the padding then"
)


def _explain(model: nn.Module, error: Exception) -> str:
    """Say in one sentence why a model was not captured, with the line of the user's code where there is one."""
    import traceback

    text = str(error).strip().splitlines()
    what = text[0] if text else type(error).__name__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(NOT_THE_USERS)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} `{(frames[-1].line or '')[:100]}`" if frames else ""
    held = (value for frame, _ in traceback.walk_tb(error.__traceback__) for value in frame.f_locals.values())
    if any(isinstance(value, PackedSequence) for value in held):
        return f"torch.export cannot capture {type(model).__name__}{where}: {_OF_PACKED}"
    return (
        f"torch.export cannot capture {type(model).__name__}{where}: {type(error).__name__}: {what}. Check that the example "
        "inputs fit the model; replace Python control flow on tensor values by torch.where, or prepare the part of the "
        "model before it"
    )
