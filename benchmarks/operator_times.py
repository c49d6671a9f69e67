"""The table of qat/planning/operator_costs.py: what each kind of operator takes, in integers and in float, in both runtimes.

    OMP_NUM_THREADS=1 python benchmarks/operator_times.py [onnxruntime onnxruntime_vnni litert] [--only conv2d add ...]

Each target's rows are those of its processors: ``onnxruntime`` is measured on one without VNNI. Each operator is timed in a file
of its own, at several sizes, batch 1, one thread, integers and float in turns, in time of the processor. Its time is fitted by a
sum of a call, of the values that it reads and writes, and of its multiply-accumulates. The least tenth of the runs counts, since
other work on the machine only adds to a time. Calls are those beyond the call of a reshape, or of a minimum for two inputs: the
rest is what a session takes for the inputs and outputs of a file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import nn

import qat
from qat.adapters.torch.lower import lower
from qat.analysis.mixed.single_layers import SingleFile, conversion_file, layer_file
from qat.baselines import float_baseline
from qat.planning.operator_costs import BORDER, LARGE_DEPTHWISE, Work, work_of
from qat.planning.targets import TARGETS as TARGETS_BY_NAME
from qat.program.program import Value
from qat.runtimes import Session, open_session
from qat.system.silence import quiet

TARGETS = ("onnxruntime", "onnxruntime_vnni", "litert")
#: Channels and side of images: those of few values show the call, those of many the values.
IMAGES = ((16, 4), (16, 28), (96, 28))
#: Rows and columns of tokens.
TOKENS = ((4, 16), (64, 64), (197, 192))

#: The kind whose input's conversions are timed.
CONVERTED = "sigmoid"
#: Sizes of it besides those of all kinds.
LARGER = ((16, 16), (64, 28), (128, 32))

#: The kinds of one and of two inputs whose calls are those of a file; they are timed whatever else is.
LEAST = ("reshape", "minimum")

#: Kinds that are timed behind a convolution, whose layout decides on their kernel.
BEHIND = ("max_pool2d",)

Forward = Callable[..., torch.Tensor]
ONE: dict[str, Forward] = {
    "relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": F.silu, "gelu": F.gelu,
    "hard_sigmoid": F.hardsigmoid, "hard_swish": F.hardswish, "leaky_relu": lambda x: F.leaky_relu(x, 0.1), "elu": F.elu,
    "selu": F.selu, "softplus": F.softplus, "mish": F.mish, "exp": torch.exp, "sqrt": lambda x: torch.sqrt(F.relu(x)),
    "abs": torch.abs, "neg": torch.neg, "square": torch.square, "clamp": lambda x: torch.clamp(x, -0.3, 0.4), "erf": torch.erf,
    "mean": lambda x: x.mean((2, 3), keepdim=True), "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2), "transpose": lambda x: x.transpose(1, 2),
    "reshape": lambda x: x.reshape(-1, x.shape[1] // 2, 2 * x.shape[2], x.shape[3]), "pad": lambda x: F.pad(x, (1, 1, 1, 1)),
    "upsample_bilinear2d": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
}  # fmt: skip
TWO: dict[str, Forward] = {
    "add": torch.add, "mul": torch.mul, "minimum": torch.minimum, "maximum": torch.maximum,
    "concat": lambda x, y: torch.cat([x, y], 1),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An operator on inputs of one shape: a function, or what makes a layer.

    ``read_by`` stands before what follows; ``row`` is the row of the table, where that is not the kind's.
    """

    kind: str
    shape: tuple[int, ...]
    function: Forward | None = None
    layer: Callable[[], nn.Module] | None = None
    inputs: int = 1
    read_by: Forward | None = None
    row: str = ""

    def operator(self) -> Forward:
        """Return the function, or a new layer."""
        return self.layer() if self.layer else self.function

    def alone(self) -> nn.Module:
        """Return the operator as float artifacts have it, beside a layer of one weight, without which no file is written."""
        return (AloneOfOne if self.inputs == 1 else AloneOfTwo)(self.operator())

    def between(self) -> nn.Module:
        """Return the operator between convolutions, so that the planner puts it on the grid."""
        return Between(self.operator(), self.shape[0], self.inputs, self.read_by)


class AloneOfOne(nn.Module):
    def __init__(self, operator: Forward) -> None:
        super().__init__()
        self.operator, self.beside = operator, nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, one: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.operator(x), self.beside(one)


class AloneOfTwo(AloneOfOne):
    def forward(self, x: torch.Tensor, y: torch.Tensor, one: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.operator(x, y), self.beside(one)


class Between(nn.Module):
    def __init__(self, operator: Forward, channels: int, inputs: int, read_by: Forward | None) -> None:
        super().__init__()
        self.operator, self.read_by = operator, read_by
        self.before = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(inputs))
        self.after = nn.LazyConv2d(4, 1)

    def forward(self, *xs: torch.Tensor) -> torch.Tensor:
        read = [before(x) for before, x in zip(self.before, xs, strict=True)]
        y = self.operator(*read)
        return self.after(self.read_by(y, read[0]) if self.read_by else y)


def cases() -> list[Case]:
    made = [
        Case(kind, (c, n, n), function, inputs=inputs)
        for inputs, functions in ((1, ONE), (2, TWO))
        for kind, function in functions.items()
        for c, n in IMAGES
    ]
    made += [Case(CONVERTED, (c, n, n), ONE[CONVERTED]) for c, n in LARGER]
    for c, n in IMAGES:
        at = partial(Case, shape=(c, n, n))
        made += [at("conv2d", layer=partial(nn.Conv2d, c, c, k, padding=k // 2)) for k in (1, 3)]
        made += [at("depthwise_conv2d", layer=partial(nn.Conv2d, c, c, k, padding=k // 2, groups=c)) for k in (3, 5)]
        made.append(at("depthwise_conv2d", layer=partial(nn.Conv2d, c, c, 7, padding=3, groups=c), row=LARGE_DEPTHWISE))
        made.append(at("conv_transpose2d", layer=partial(nn.ConvTranspose2d, c, c // 2, 2, 2)))
        made.append(at("group_norm", layer=partial(nn.GroupNorm, 8, c)))
    for rows, columns in TOKENS:
        at = partial(Case, shape=(8, rows, columns))
        made += [
            at("dense", layer=partial(nn.Linear, columns, columns)),
            at("matmul", function=lambda x, y: x @ y.transpose(-1, -2), inputs=2),
            at("softmax", function=lambda x: torch.softmax(x, -1), read_by=lambda y, x: y.transpose(-1, -2) @ x),
            at("layer_norm", layer=partial(nn.LayerNorm, columns)),
            at("rms_norm", layer=partial(nn.RMSNorm, columns)),
        ]
    return made


def seconds(sessions: Sequence[Session], feeds: Sequence[Sequence[np.ndarray]]) -> list[float]:
    """Return the least tenth of the seconds of each session; the sessions take turns."""
    taken: list[list[float]] = [[] for _ in sessions]
    ends = time.perf_counter() + 0.2
    while len(taken[0]) < 20 or (len(taken[0]) < 400 and time.perf_counter() < ends):
        for session, feed, found in zip(sessions, feeds, taken, strict=True):
            started = time.process_time()
            session.invoke(*feed)
            found.append(time.process_time() - started)
    return [float(np.quantile(found[3:], 0.1)) for found in taken]


def feed_of(file: SingleFile, session: Session) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=s).astype(np.float32) if i.dtype == "float32" else random.integers(0, 100, s).astype(i.dtype)
            for s, i in zip(file.shapes, session.inputs, strict=True)]  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The work of one case, and its microseconds in integers and in float, those of a call left out."""

    work: Work
    integer: float
    real: float


def measure(target: str, case: Case) -> dict[str, Measured]:
    """Return what a case takes, and of :data:`CONVERTED` what its conversions take; nothing of one that stays float."""
    suffix = TARGETS_BY_NAME[target].suffix
    xs = tuple(torch.randn(3, *case.shape) for _ in range(case.inputs))
    model = case.between().eval()
    with torch.no_grad():
        model(*xs)
    prepared = qat.calibrate(qat.prepare(model, xs, target=target), [xs])
    program = lower(prepared)
    planned = next((p for p in prepared.plan.ops if p.op.kind == case.kind and p.integer), None)
    if planned is None:
        return {}
    (instruction,) = (i for i in program.instructions if i.name == planned.op.name)
    before = [i for i in program.instructions if case.kind in BEHIND and i.outputs[0] == instruction.inputs[0]]
    value = program.values[instruction.inputs[0]]
    files = [
        layer_file(program, [*before, instruction], suffix),
        layer_file(program, before or [instruction], suffix),
        conversion_file(program, value, suffix, False),
        conversion_file(program, value, suffix, True),
        conversion_file(program, Value("one", (None, 1), value.encoding), suffix, False),
    ]
    with tempfile.TemporaryDirectory() as folder:
        baseline = float_baseline(case.alone().eval(), (*xs, torch.ones(3, 1)), folder, target=target)
        if baseline.path is None:
            raise RuntimeError(str(baseline.error)[-600:])
        real = open_session(baseline.path)
        sessions = [file.file_format.open(file.raw, kernels=file.kernels) for file in files]
        feeds = [feed_of(*pair) for pair in zip(files, sessions, strict=True)]
        times = seconds([*sessions, real], [*feeds, [np.zeros([s or 1 for s in i.shape], np.float32) + 0.5 for i in real.inputs]])
    integer, alone, into, back, call, as_float = (1e6 * t for t in times)
    integer -= alone - call if before else 0.0
    found = {
        case.row or case.kind: Measured(
            work_of(planned, prepared.plan.graph), max(integer - call, 0.05), max(as_float - call, 0.05)
        )
    }
    if case.kind != CONVERTED:
        return found
    border = Work(int(np.prod(value.shape[1:])), 0)
    return found | {BORDER: Measured(border, max(into - call, 0.05), max(back - into, 0.05))}


def fitted(found: Sequence[Measured], times: Sequence[float]) -> tuple[float, float, float]:
    """Return microseconds of a call, nanoseconds of a value and of a multiply-accumulate: all positive, least relative error."""
    wanted = np.asarray(times)
    rows = np.array([[1.0, 1e-3 * m.work.values, 1e-3 * m.work.macs] for m in found]) / wanted[:, None]
    solved, _ = nnls(rows, np.ones(len(found)))
    return tuple(float(f"{x:.2g}") for x in solved)  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--only", nargs="*", help="kinds")
    options = parser.parse_args()
    torch.manual_seed(0)
    for target in options.targets:
        found: dict[str, list[Measured]] = {}
        for case in cases():
            if options.only and (case.row or case.kind) not in {*options.only, *LEAST}:
                continue
            try:
                with quiet():
                    made = measure(target, case)
            except Exception as error:  # whatever fails is a row that is missing
                print(
                    f"# {target} {case.kind} {case.shape}: {type(error).__name__}: {' '.join(str(error).split())[-250:]}",
                    flush=True,
                )
                continue
            for kind, measured in made.items():
                found.setdefault(kind, []).append(measured)
        print(f'    "{target}": {{')
        fits = {
            kind: [fitted(rows, [getattr(row, form) for row in rows]) for form in ("integer", "real")]
            for kind, rows in found.items()
        }
        for kind, rates in fits.items():
            if options.only and kind not in (*options.only, BORDER):
                continue
            least = fits.get(LEAST[kind in (*TWO, "matmul")], rates)
            of_file = [0.0, 0.0] if kind == BORDER else [call for call, _, _ in least]
            integer, real = ((round(max(call - own, 0.0), 2), *rest) for (call, *rest), own in zip(rates, of_file, strict=True))
            print(f'        "{kind}": OperatorCost({integer}, {real}),', flush=True)
        print("    },", flush=True)


if __name__ == "__main__":
    main()
