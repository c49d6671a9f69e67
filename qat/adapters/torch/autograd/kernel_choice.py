"""Which of several forms computes a kernel: the one that was measured to be the fastest, on this machine, for this shape.

No form is the fastest everywhere: what oneDNN's backward pass of a 1x1 convolution takes on one maker's processor is half of what
the products of its matrices take, and twice as much on another's. So each question (a kernel and its shapes) is measured once, on
the tensors at hand, when it is met first. The answer stands in the user's cache (:mod:`qat.system.kernel_cache`) and, while
:mod:`qat.trainers` trains, in the checkpoint. From then on a run is deterministic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import inf
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from qat.system import kernel_cache
from qat.system.machine import interruptions
from qat.typing import Gradients

from . import passes

R = TypeVar("R")

#: The forms are measured in turn, at most and at least so often, until all of them together took so many seconds. One that takes
#: so many times as long as the quickest is not measured again.
_MOST, _LEAST, _ENOUGH, _NEAR = 40, 3, 0.03, 1.3
#: How many seconds to wait for a time of each form in which no other work took a core.
_PATIENCE = 0.1
#: From this many seconds of the plain form on, a small part of the batch is tried first: a form that takes so many times as long
#: as the plain one there is not measured further. Some take a hundred times as long.
_LONG, _SHARE, _HOPELESS = 3e-4, 32, 4.0
#: Another form must take at most this share of the plain form's time: what differs less is noise.
_WORTH = 0.95


@dataclass(frozen=True)
class Form(Generic[R]):
    """One way to compute a kernel.

    Attributes:
        name: in the cache, in checkpoints and in ``qat doctor``.
        compute: the function.
        fits: whether it can compute these arguments.
    """

    name: str
    compute: Callable[..., R]
    fits: Callable[..., bool] = field(default=lambda *args: True)


@dataclass(frozen=True)
class Kernel(Generic[R]):
    """A kernel, and the forms that compute it, the plain one first: what PyTorch itself would do.

    Attributes:
        name: in the cache, in checkpoints and in ``qat doctor``.
        forms: the plain one first.
        batches: how many of the arguments, the first ones, have a row for each sample (axis 0).
        asked: returns the arguments that decide how long a form takes, the batches first; None: all do.
        exact: whether each form must return the plain form's numbers in every bit; one that does not is left out.
    """

    name: str
    forms: tuple[Form[R], ...]
    batches: int
    asked: Callable[..., tuple[Any, ...]] | None = None
    exact: bool = False

    @cached_property
    def by_name(self) -> dict[str, Form[R]]:
        """The forms by name."""
        return {form.name: form for form in self.forms}

    def question(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments that decide how long a form takes."""
        return args if self.asked is None else self.asked(*args)

    def __call__(self, *args: Any) -> R:
        """Compute by the fastest form. The arguments are tensors and what describes them, hashable."""
        return self.form(*args).compute(*args)

    def form(self, *args: Any) -> Form[R]:
        """Return the fastest form for these arguments."""
        return _choices.form(self, args) if len(self.forms) > 1 and _measures(args) else self.forms[0]


class Choices:
    """The forms that a run computes with.

    Attributes:
        gradients: in what the products of gradients are computed.
        forms: of each question that the run has met, by name.
    """

    def __init__(self, gradients: Gradients = "float32") -> None:
        self.gradients = gradients
        self.forms: dict[str, str] = {}
        self._known: dict[tuple[Any, ...], Form[Any]] = {}

    def form(self, kernel: Kernel[R], args: tuple[Any, ...]) -> Form[R]:
        """Return the form for these arguments."""
        key = (kernel.name, torch.get_num_threads(), *[_hashable(a) for a in kernel.question(args)])
        if (found := self._known.get(key)) is None:
            found = self._known[key] = self._decided(kernel, args)
        return found

    def _decided(self, kernel: Kernel[R], args: tuple[Any, ...]) -> Form[R]:
        question = _question(kernel, args)
        name = self.forms.get(question) or _remembered().get(question)
        if name not in kernel.by_name:  # never asked; or a checkpoint of a version with other forms
            form, alone = _fastest(kernel, args)
            name = form.name
            if alone:
                first = kernel_cache.remember(_conditions(), question, name)
                name = _remembered()[question] = first if first in kernel.by_name else name
        self.forms[question] = name
        form = kernel.by_name[name]
        # Sizes of one question may differ, and a checkpoint may be of another processor.
        return form if form.fits(*args) else kernel.forms[0]

    def take(self, forms: Mapping[str, str]) -> None:
        """Compute with the forms of another run, or of another process; they go before what is measured."""
        self.forms.update(forms)
        self._known.clear()


def rounded(x: Tensor) -> Tensor:
    """Return the values of bfloat16 in float32."""
    return x.to(torch.bfloat16).float()


@cache
def has_bf16() -> bool:
    """Return whether this processor has kernels for bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def by_precision(
    name: str, batches: int, float32: tuple[Form[R], ...], rounded: Form[R], bf16: tuple[Form[R], ...]
) -> dict[Gradients, Kernel[R]]:
    """Return the kernels of a gradient, by its option; ``rounded`` is the plain form in bfloat16, on any processor."""
    return {
        "float32": Kernel(name, float32, batches),
        "bf16": Kernel(f"{name} in bf16", (rounded, *bf16), batches),
        "auto": Kernel(f"{name} in float32 or bf16", (*float32, *bf16), batches),
    }


def merged(each: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the forms of several processes as one; where they differ, those of the first that has one."""
    found: dict[str, str] = {}
    for forms in each:
        found = {**forms, **found}
    return found


#: What a loop of the user's computes with.
_choices = Choices()
#: The cache's content, as far as this process knows it.
_answers: dict[kernel_cache.Conditions, dict[str, str]] = {}


def gradients() -> Gradients:
    """Return in what the products of gradients are computed now: without kernels for bfloat16 the choice is float32."""
    asked = _choices.gradients
    return "float32" if asked == "auto" and not has_bf16() else asked


@contextmanager
def computing_with(choices: Choices) -> Iterator[None]:
    """Compute with the forms of a run. They hold in all threads, since a backward pass may have its own."""
    global _choices
    before, _choices = _choices, choices
    try:
        yield
    finally:
        _choices = before


_PLAIN = (Tensor, torch.nn.Parameter)


def _measures(args: tuple[Any, ...]) -> bool:
    """Return whether forms are chosen: on a processor, eagerly, and unless the user asks for determinism by other means."""
    first = args[0]  # the other tensors lie where it lies
    return (
        type(first) in _PLAIN
        and first.is_cpu
        and not torch.compiler.is_compiling()
        and not torch.are_deterministic_algorithms_enabled()
    )  # fmt: skip


def _conditions() -> kernel_cache.Conditions:
    compiled = "" if passes.walks() is None else ", compiled passes"  # a form's conversions to bytes are faster then
    framework = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}{compiled}"
    return kernel_cache.conditions(framework, torch.get_num_threads())


def _remembered() -> dict[str, str]:
    conditions = _conditions()
    if conditions not in _answers:
        _answers[conditions] = kernel_cache.answers(conditions)
    return _answers[conditions]


def _hashable(value: Any) -> Any:
    return (value.dtype, value.shape, value.stride()) if isinstance(value, Tensor) else value


def _question(kernel: Kernel[Any], args: tuple[Any, ...]) -> str:
    """Return a kernel and its arguments in words. A batch of another size, or of images of another size, is seldom a new one."""
    words = [_of_batch(a) if i < kernel.batches else _word(a) for i, a in enumerate(kernel.question(args))]
    return " ".join([f"{kernel.name}:", *filter(None, words)])


def _of_batch(x: Tensor) -> str:
    """Return the sizes of a batch in words, all but the channels' rounded."""
    return "x".join(str(size if axis == 1 else _rounded(size)) for axis, size in enumerate(x.shape)) + _in_memory(x)


def _word(value: object) -> str:
    if isinstance(value, Tensor):
        return "x".join(map(str, value.shape)) + _in_memory(value)
    if isinstance(value, (tuple, list)):
        return ",".join("x".join(map(str, v)) if isinstance(v, (tuple, list)) else str(v) for v in value)
    return "" if value is None else str(value)


def _rounded(size: int) -> int:
    """Return a size with its two leading binary digits, rounded down: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    shift = max(size.bit_length() - 2, 0)
    return size >> shift << shift


def _in_memory(x: Tensor) -> str:
    """Return the type of a tensor's elements and their order in memory, in words; nothing for floats in the usual order."""
    dtype = "" if x.dtype is torch.float32 else f":{str(x.dtype).removeprefix('torch.')}"
    if x.is_contiguous():
        return dtype
    return dtype + (":last" if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) else ":strided")


def _fastest(kernel: Kernel[Any], args: tuple[Any, ...]) -> tuple[Form[Any], bool]:
    """Return the form that takes the least time, and whether other work left it alone while it was measured."""
    plain, *others = kernel.forms
    others = [form for form in others if form.fits(*args)]
    if not others:
        return plain, True
    expected = plain.compute(*args)
    if _seconds(plain, args)[0] > _LONG:
        sample = tuple(a[: max(1, len(a) // _SHARE)] if i < kernel.batches else a for i, a in enumerate(args))
        limit = _HOPELESS * _quickest(plain, sample)
        others = [form for form in others if form.fits(*sample) and _quickest(form, sample) < limit]
    if kernel.exact:
        others = [form for form in others if torch.equal(form.compute(*args), expected)]
    else:
        for form in others:
            form.compute(*args)  # the first call of a shape takes longer: the library prepares its kernel
    forms = [plain, *others]
    times, disturbed = dict.fromkeys(forms, inf), dict.fromkeys(forms, inf)
    running, spent = forms, 0.0
    for turn in range(1, _MOST + 1):
        for form in running:
            seconds, alone = _seconds(form, args)
            kind = times if alone else disturbed
            kind[form], spent = min(kind[form], seconds), spent + seconds
        least = min(times.values())
        running = [form for form in forms if times[form] == inf or times[form] < _NEAR * least]
        if len(running) == 1 or (turn >= _LEAST and spent > (_PATIENCE if inf in times.values() else _ENOUGH)):
            break
    alone = inf not in times.values()
    times = times if alone else {form: min(times[form], disturbed[form]) for form in forms}
    best = min(times, key=times.__getitem__)
    return (best if times[best] < _WORTH * times[plain] else plain), alone


def _quickest(form: Form[Any], args: tuple[Any, ...]) -> float:
    return min(_seconds(form, args)[0] for _ in range(2))


def _seconds(form: Form[Any], args: tuple[Any, ...]) -> tuple[float, bool]:
    """Return how long a form takes, and whether no other work took a core from it.

    Of one thread its own time counts, which other work on the machine hardly changes; several wait for the slowest.
    """
    single = torch.get_num_threads() == 1
    clock = time.thread_time if single else time.perf_counter
    before, started = interruptions(), clock()
    form.compute(*args)
    seconds = clock() - started
    return seconds, single or interruptions() == before
