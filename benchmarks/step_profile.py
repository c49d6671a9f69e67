"""Where a training step's time goes: each part's time by torch.profiler, beside what this machine could do it in.

    python benchmarks/step_profile.py [MODEL ...] [--kind qat] [--runs 10] [--steps 5] [--json docs/step_profile.json]
    python benchmarks/step_profile.py --json docs/step_profile.json --render docs/benchmarks.md

The step is that of benchmarks/step_cost.py, on one thread. The Python function that calls an operator decides the part
(``PARTS``), the nearest one first. *Python and dispatch* is what a step takes beyond the operators, outside the profiler.

*Limit* is the roofline: the longer of a part's arithmetic at the peak of its numbers, and of its bytes at the bandwidth of the
memory, both measured in the same run. An operator's bytes are those of its inputs and its result. A part that works in the caches
can beat the memory's limit. Of compiled passes the profiler has the time; while work is counted, PyTorch's operators stand in for
them. The profiler knows no seconds of the CPU: on a machine with other work the parts come out too long.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from sections import options_of, parsed, render_or_measure
from sections import table as as_table
from step_rows import MODELS, Step
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

#: The part of an operator by the function that calls it: the end of its file's path, its name (any where empty), the part.
PARTS = (
    ("autograd/clip_mask.py", "", "clip masks"),
    ("autograd/by_operators.py", "requantize", "epilogue"),
    ("autograd/by_operators.py", "round_clamp", "epilogue"),
    ("autograd/by_operators.py", "look_up", "tables"),
    ("autograd/by_operators.py", "look_up_times", "tables"),
    ("autograd/by_operators.py", "product", "products of activations"),
    ("autograd/by_operators.py", "product_gradients", "products of activations"),
    ("autograd/by_operators.py", "to_bytes", "epilogue"),
    ("autograd/by_operators.py", "mask_by_bytes", "clip masks"),
    ("autograd/by_operators.py", "", "weights"),
    ("autograd/byte_kernels.py", "", "accumulators"),
    ("autograd/conv_gradients.py", "", "gradients"),
    ("", "backward", "gradients"),
    ("torch/optim/sgd.py", "", "optimizer"),
    ("autograd/linear.py", "forward", "epilogue"),
    ("autograd/functions.py", "forward", "epilogue"),
    ("qat/adapters/torch/nodes/quantize.py", "", "epilogue"),
    ("qat/adapters/torch/nodes/linear.py", "", "weights"),
)
#: An operator by name, before its caller is asked.
OPERATORS = {
    "onednn::qconv_prepack": "weights",
    "passes::weight_integers": "weights",
    "passes::rounded_weight": "weights",
    "passes::requantize": "epilogue",
    "passes::to_bytes": "epilogue",
    "passes::round_clamp": "epilogue",
    "passes::look_up": "tables",
    "passes::look_up_times": "tables",
    "passes::product": "products of activations",
    "passes::product_gradients": "products of activations",
    "passes::mask_by_bytes": "clip masks",
}
OTHER = "other operators"
PYTHON = "Python and dispatch"


def part_of(operator: str, callers: Iterable[tuple[str, str]]) -> str:
    """Return the part of an operator, by its name and its callers' (file, function), the nearest first."""
    if operator in OPERATORS:
        return OPERATORS[operator]
    for file, function in callers:
        for suffix, name, part in PARTS:
            if file.endswith(suffix) and name in ("", function):
                return part
    return OTHER


@dataclass
class Work:
    """What a part does in a step.

    Attributes:
        operators: how many it calls.
        bytes: what they read and write.
        products: multiplications by type: ``int8``, ``bfloat16``, ``float32``.
    """

    operators: int
    bytes: int
    products: dict[str, int]


class Counting(TorchDispatchMode):
    """Counts the work of each part in the passes that it surrounds."""

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[str, Work] = defaultdict(lambda: Work(0, 0, defaultdict(int)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().partition(".")[0]
        work = self.work[part_of(name, _callers(sys._getframe(1)))]
        work.operators += 1
        if func.is_view:
            return out
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        work.bytes += sum({id(t): t.nbytes if t.layout is torch.strided else 0 for t in tensors}.values())
        if (products := _products(name, func, args, out)) > 0:
            kind = "int8" if tensors[0].dtype is torch.uint8 else str(tensors[0].dtype).removeprefix("torch.")
            work.products[kind] += products
        return out


def _products(name: str, func: Any, args: Any, out: Any) -> int:
    """Return the multiplications of an operator. PyTorch's own count of a backward convolution takes groups for one."""
    if name in ("onednn::qconv2d_pointwise", "aten::convolution"):
        return int(out.numel() * args[3 if name.startswith("onednn") else 1].shape[1:].numel())
    if name == "aten::convolution_backward":
        return int(args[0].numel() * args[2].shape[1:].numel() * sum(args[-1][:2]))
    count = flop_registry.get(func._overloadpacket)
    return 0 if count is None else int(count(*args, out_val=out)) // 2


def _callers(frame: Any) -> Iterable[tuple[str, str]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_code.co_name
        frame = frame.f_back


def work_of(step: Step) -> dict[str, Work]:
    """Return the work of each part in one step."""
    with Counting() as counting:
        step()
    return counting.work


def seconds_of(step: Step, steps: int) -> dict[str, float]:
    """Return the operators' seconds of each part in one step: of each operator the least of some steps under the profiler.

    The least is nearest to seconds of the CPU where the machine has other work.
    """
    runs = [_profiled(step) for _ in range(steps)]
    found: dict[str, float] = defaultdict(float)
    for part, name in runs[0]:
        same = zip(*(run[part, name] for run in runs), strict=True)
        found[part] += sum(map(min, same))
    return found


def _profiled(step: Step) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of each operator of a step, without those of the operators that it calls, by part and name."""
    options = _ExperimentalConfig(verbose=True)  # else PyTorch drops the callers
    with profile(activities=[ProfilerActivity.CPU], with_stack=True, experimental_config=options) as profiled:
        step()
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in profiled.events() or ():
        if event.name.startswith(("aten::", "onednn::", "mkldnn::", "passes::")):
            found[part_of(event.name, _frames(event.cpu_parent)), event.name].append(event.self_cpu_time_total / 1e6)
    return found


@contextmanager
def named_passes(monitored: Any) -> Iterator[None]:
    """Let the profiler see compiled passes, which are no operators of PyTorch, by their names."""
    names = [operator.partition("::")[2] for operator in OPERATORS if operator.startswith("passes::")]
    before = {name: getattr(monitored, name) for name in names if monitored is not None}
    for name, function in before.items():
        setattr(monitored, name, _named(function, f"passes::{name}"))
    yield
    for name, function in before.items():
        setattr(monitored, name, function)


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def called(*args: Any) -> Any:
        with record_function(name):
            return function(*args)

    return called


def _frames(event: Any) -> Iterable[tuple[str, str]]:
    """Return the Python functions around an event: the profiler names them ``file(line): function``."""
    while event is not None:
        file, _, function = event.name.partition("): ")
        if function:
            yield file.rpartition("(")[0], function
        event = event.cpu_parent


@dataclass(frozen=True)
class Machine:
    """What one thread of this machine does in a second, by operators of PyTorch.

    Attributes:
        products: multiplications with addition, by type.
        bandwidth: bytes read and written, of tensors larger than the caches.
    """

    products: dict[str, float]
    bandwidth: float

    def limit(self, work: Work) -> float:
        """Return the roofline's seconds for some work."""
        arithmetic = sum(count / self.products.get(kind, self.products["float32"]) for kind, count in work.products.items())
        return max(arithmetic, work.bytes / self.bandwidth)


def measure_machine() -> Machine:
    """Measure the peaks: products of matrices that stay in the caches, and a copy that does not."""
    from qat.adapters.torch.autograd import by_operators, byte_kernels

    side = 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    calls: dict[str, Callable[[], Any]] = {"float32": lambda: a @ b}
    half_a, half_b = a.bfloat16(), b.bfloat16()
    calls["bfloat16"] = lambda: half_a @ half_b
    if byte_kernels.exact(64):
        image, weight = torch.randint(0, 127, (1, side, 32, 32)).float(), torch.randint(-64, 65, (side, side, 1, 1))
        rows, one, zero = (
            by_operators.to_bytes(image, 0).contiguous(memory_format=torch.channels_last),
            torch.ones(1),
            torch.zeros(1).int(),
        )
        geometry: byte_kernels.Geometry = ((1, 1), (0, 0), (1, 1), 1)
        packed = byte_kernels.onednn.qconv_prepack(weight.to(torch.int8), one, 1.0, 0, *geometry, rows.shape)
        rest = (one, zero, None, *geometry, 1.0, 0, torch.float32, "none", [], "")
        calls["int8"] = lambda: byte_kernels.onednn.qconv2d_pointwise.default(rows, 1.0, 0, packed, *rest)
    large = torch.empty(2**26), torch.empty(2**26)
    bandwidth = 2 * large[0].nbytes / _least(lambda: large[0].copy_(large[1]))
    return Machine({kind: side**3 / _least(call) for kind, call in calls.items()}, bandwidth)


def _least(call: Callable[[], Any], runs: int = 10) -> float:
    """Return the seconds of the CPU of the quickest run."""
    return min(_timed(call, runs))


def _timed(call: Callable[[], Any], runs: int) -> list[float]:
    call()
    found = []
    for _ in range(runs):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return found


def parts_of(seconds: dict[str, float], work: dict[str, Work], machine: Machine, whole: float) -> dict[str, dict[str, Any]]:
    """Return what is known of each part of a step, the longest first."""
    found: dict[str, dict[str, Any]] = {}
    for part, spent in sorted({**seconds, PYTHON: whole - sum(seconds.values())}.items(), key=lambda row: -row[1]):
        found[part] = {"seconds": spent}
        if (did := work.get(part)) is not None:
            products = sum(did.products.values())
            found[part] |= {"operators": did.operators, "products": products, "bytes": did.bytes, "limit": machine.limit(did)}
    return found


def table(parts: dict[str, dict[str, Any]], whole: float) -> str:
    """Return the parts of a step as a table."""
    rows = []
    for part, row in parts.items():
        figures = [f"{1e3 * row['seconds']:.1f}", f"{row['seconds'] / whole:.0%}"]
        if "limit" in row:
            figures += [f"{row['operators']}", f"{row['products'] / 1e6:.0f}", f"{row['bytes'] / 2**20:.0f}"]
            figures += [f"{1e3 * row['limit']:.1f}"]
        rows.append((part, *figures, *[""] * (6 - len(figures))))
    return as_table(("part", "ms", "share", "operators", "M products", "MiB", "limit ms"), rows)


def render(figures: dict[str, dict[str, Any]]) -> str:
    """Return the profiles of one machine."""
    found = []
    for model, step in figures.items():
        peaks = ", ".join(f"{kind} {rate / 1e9:.0f}" for kind, rate in step["products"].items())
        rates = f"10^9 products a second of one thread: {peaks}; memory {step['bandwidth'] / 1e9:.1f} GB/s"
        title = f"**{MODELS[model][0]}, {step['kind']}, {1e3 * step['seconds']:.0f} ms** ({rates})"
        found += [title, table(step["parts"], step["seconds"])]
    return "\n\n".join(found)


def main() -> None:
    parser = options_of(__doc__)
    names = [name for name in MODELS if name != "keras"]
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["mobilenet_v2", "resnet18"], help=f"of {', '.join(names)}")
    parser.add_argument("--kind", default="qat", help="a row of step_rows.py")
    parser.add_argument("--runs", type=int, default=10, help="steps outside the profiler, of which the median counts")
    parser.add_argument("--steps", type=int, default=5, help="steps under the profiler")
    options = parsed(parser, names)
    torch.set_num_threads(1)

    def measure(figures: dict[str, Any], keep: Callable[[], None]) -> None:
        from qat.adapters.torch.autograd import passes

        limits = measure_machine()
        for model in options.models:
            _, make, name, kinds = MODELS[model]
            step = kinds[options.kind].build(*make(name))
            whole = statistics.median(_timed(step, options.runs))
            with named_passes(passes.walks()):
                seconds = seconds_of(step, options.steps)
            figures[model] = {
                "kind": kinds[options.kind].title.strip("*"),
                "seconds": whole,
                "products": limits.products,
                "bandwidth": limits.bandwidth,
                "parts": parts_of(seconds, work_of(step), limits, whole),
            }
            keep()
            if sum(seconds.values()) > whole:
                print(f"{model}: the parts take longer than the whole, since the machine has other work; repeat it at rest")

    render_or_measure(options, "step profile", render, measure)


if __name__ == "__main__":
    main()
