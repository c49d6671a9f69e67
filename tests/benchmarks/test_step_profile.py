"""The profile of a step: which part an operator belongs to, what it multiplies, and the machine's limit for it."""

import pytest
import torch
from step_profile import OTHER, PYTHON, Machine, Work, named_passes, part_of, parts_of, seconds_of, table, work_of
from step_rows import ours

from qat.adapters.torch.autograd import passes


@pytest.fixture(scope="module")
def step():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Flatten(), torch.nn.Linear(128, 5)
    )
    step = ours(model.eval(), torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    step()  # the first one measures the forms of its kernels
    return step


def test_the_nearest_caller_decides_the_part():
    backward = ("qat/adapters/torch/autograd/linear.py", "backward")
    assert part_of("aten::mul_", [backward]) == "gradients"
    assert part_of("aten::mul_", [("qat/adapters/torch/autograd/clip_mask.py", "apply_clip_mask"), backward]) == "clip masks"
    assert part_of("onednn::qconv_prepack", [backward]) == "weights"
    assert part_of("aten::mul_", []) == OTHER


def test_products_are_those_of_the_layers(step):
    work = work_of(step)
    forward = 2 * 8 * 36 * 27 + 2 * 8 * 16 * 9 + 2 * 5 * 128
    assert sum(work["accumulators"].products.values()) == forward
    # Gradients of each weight, and of each input but the images.
    assert sum(work["gradients"].products.values()) == 2 * forward - 2 * 8 * 36 * 27


def test_every_part_has_time_and_a_limit(step):
    seconds, work = seconds_of(step, 2), work_of(step)
    assert {"accumulators", "epilogue", "clip masks", "weights", "gradients", "optimizer"} <= set(seconds)
    text = table(parts_of(seconds, work, Machine({"float32": 1e9, "int8": 1e9}, 1e9), 1.0), 1.0)
    assert all(f"| {part} |" in text for part in (*seconds, PYTHON))


@pytest.mark.skipif(passes.walks() is None, reason="no C compiler, or not one for this system")
def test_compiled_passes_have_time(step, monkeypatch):
    walks = passes.Walks(passes.walks().library)
    monkeypatch.setattr(passes, "walks", lambda: walks)
    called = []
    requantize = walks.requantize
    monkeypatch.setattr(walks, "requantize", lambda *args: called.append(1) or requantize(*args))
    with named_passes(walks):
        assert seconds_of(step, 1)["epilogue"] > 0
    assert len(called) == 3
    assert work_of(step)["epilogue"].operators >= 9  # the operators that stand in for them
    assert len(called) == 3


def test_the_limit_is_the_longer_of_arithmetic_and_memory():
    machine = Machine({"float32": 1e9, "int8": 4e9}, 1e10)
    assert machine.limit(Work(1, 10**9, {"float32": 10**9, "int8": 4 * 10**9})) == 2.0
    assert machine.limit(Work(1, 10**11, {"float32": 10**9})) == 10.0
