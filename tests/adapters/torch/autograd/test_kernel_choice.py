"""The choice of kernels: by measurement, once, remembered, and never where a run must not depend on it."""

import itertools
import json
import time

import pytest
import torch

from qat.adapters.torch.autograd import kernel_choice
from qat.adapters.torch.autograd.kernel_choice import Choices, Form, Kernel, computing_with, merged
from qat.system import kernel_cache


@pytest.fixture(autouse=True)
def new_cache(tmp_path, monkeypatch):
    """A cache of this test alone, and a process that has not read it yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel_choice, "_answers", {})
    with computing_with(Choices()):
        yield tmp_path


def another_process(monkeypatch):
    monkeypatch.setattr(kernel_choice, "_answers", {})
    return computing_with(Choices())


def kernel(*seconds, fits=(), exact=False, wrong=None):
    """Return a kernel whose forms ``0``, ``1``, ... take so many seconds for each row, and the calls: (form, rows)."""
    calls = []

    def form(i):
        def compute(x):
            calls.append((str(i), len(x)))
            until = time.thread_time() + seconds[i] * len(x)
            while time.thread_time() < until:
                pass
            return x + (i == wrong)

        return Form(str(i), compute, lambda x: i not in fits)

    return Kernel("test", tuple(form(i) for i in range(len(seconds))), batches=1, exact=exact), calls


def test_the_fastest_form_computes():
    made, calls = kernel(2e-4, 1e-4, 3e-5)
    made(torch.ones(4, 2))
    assert calls[-1] == ("2", 4)
    calls.clear()
    for _ in range(3):
        made(torch.ones(4, 2))
    assert calls == [("2", 4)] * 3  # measured once


def test_a_form_that_does_not_fit_is_not_tried():
    made, calls = kernel(2e-4, 1e-5, fits={1})
    made(torch.ones(4, 2))
    assert {name for name, _ in calls} == {"0"}


def test_what_is_hardly_faster_is_not_chosen():
    made, calls = kernel(1e-4, 0.98e-4)
    made(torch.ones(8, 2))
    assert calls[-1] == ("0", 8)


def test_a_hopeless_form_is_tried_on_one_sample_alone():
    made, calls = kernel(1e-4, 1e-2, 1e-5)
    made(torch.ones(32, 2))
    assert {rows for name, rows in calls if name == "1"} == {1}
    assert calls[-1] == ("2", 32)


def test_an_inexact_form_is_left_out():
    made, calls = kernel(1e-4, 1e-6, exact=True, wrong=1)
    assert torch.equal(made(torch.ones(2, 2)), torch.ones(2, 2))
    assert calls[-1] == ("0", 2)


def test_the_next_process_remembers(monkeypatch):
    made, calls = kernel(1e-4, 1e-6)
    made(torch.ones(4, 2))
    calls.clear()
    with another_process(monkeypatch):
        made(torch.ones(4, 2))
    assert calls == [("1", 4)]
    (measured,) = kernel_cache.remembered()
    assert measured.forms == {"test: 4x2": "1"}
    assert measured.conditions.threads == torch.get_num_threads()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_what_was_measured_beside_other_work_is_not_remembered(monkeypatch):
    monkeypatch.setattr(kernel_choice, "interruptions", itertools.count().__next__)
    made, calls = kernel(1e-4, 1e-6)
    made(torch.ones(4, 2))
    assert calls[-1] == ("1", 4)
    assert kernel_cache.remembered() == ()
    calls.clear()
    made(torch.ones(4, 2))
    assert calls == [("1", 4)]  # but this process does not measure again
    with another_process(monkeypatch):
        made(torch.ones(4, 2))
    assert len(calls) > 2


@pytest.mark.usefixtures("two_threads")
def test_a_time_beside_other_work_does_not_count(monkeypatch):
    taken = []

    def beside_other_work(x):
        taken.append(1)
        time.sleep(1e-2 if len(taken) < 5 else 0)
        return x

    plain = Form("plain", lambda x: time.sleep(3e-3) or x)
    monkeypatch.setattr(kernel_choice, "interruptions", lambda: len(taken) if len(taken) < 5 else 5)
    made = Kernel("test", (plain, Form("other", beside_other_work)), batches=1)
    assert made.form(torch.ones(4, 2)).name == "other"
    assert [dict(m.forms) for m in kernel_cache.remembered()] == [{"test: 4x2": "other"}]


def test_a_batch_of_nearly_the_same_size_is_no_new_question():
    made, calls = kernel(1e-4, 1e-6)
    made(torch.ones(27, 2))
    calls.clear()
    made(torch.ones(31, 2))
    assert calls == [("1", 31)]
    made(torch.ones(32, 2))
    assert len(calls) > 2


def test_what_another_process_wrote_first_counts(monkeypatch):
    made, _ = kernel(1e-4, 1e-6)
    made.form(torch.ones(4, 2))
    other, _ = kernel(1e-6, 1e-4)
    remembered = dict(kernel_choice._remembered())
    with another_process(monkeypatch):
        monkeypatch.setattr(kernel_choice, "_remembered", dict)  # it started before the first one wrote
        assert other.form(torch.ones(4, 2)).name == "1"
    assert remembered == {"test: 4x2": "1"}


@pytest.mark.parametrize(
    "broken",
    [b"\x00\xff", b'{"question": 3}\n[1]\nnull\n{"question": "test: 4x2", "fo', b'{"question": "test: 4x2", "form": "of old"}'],
)
def test_a_broken_cache_is_no_error(broken, monkeypatch, new_cache):
    made, calls = kernel(1e-4, 1e-6)
    made(torch.ones(4, 2))
    (path,) = new_cache.rglob("*.jsonl")
    path.write_bytes(broken)
    with another_process(monkeypatch):
        made(torch.ones(4, 2))
        assert calls[-1] == ("1", 4)
    assert path.read_bytes().startswith(broken)


def test_a_torn_line_harms_itself_alone(monkeypatch, new_cache):
    made, _ = kernel(1e-4, 1e-6)
    made(torch.ones(4, 2))
    (path,) = new_cache.rglob("*.jsonl")
    with open(path, "ab") as file:
        file.write(b'{"question": "test: 8x2", "fo')
    with another_process(monkeypatch):
        made(torch.ones(16, 2))
    assert kernel_cache.remembered()[0].forms == {"test: 4x2": "1", "test: 16x2": "1"}
    assert all(json.loads(line) for line in path.read_bytes().splitlines() if line and b'"fo' not in line[-5:])


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, new_cache):
    (new_cache / "qat").write_text("a file in the folder's place")
    made, calls = kernel(1e-4, 1e-6)
    made(torch.ones(4, 2))
    calls.clear()
    made(torch.ones(4, 2))
    assert calls == [("1", 4)]
    assert kernel_cache.remembered() == ()


def test_forms_of_a_checkpoint_go_before_what_is_measured(monkeypatch):
    made, calls = kernel(1e-4, 1e-6)
    made(torch.ones(4, 2))
    run = Choices()
    run.take({"test: 4x2": "0", "test: 8x2": "a form of another version"})
    with computing_with(run):
        made(torch.ones(4, 2))
        assert calls[-1] == ("0", 4)
        made(torch.ones(8, 2))
        assert calls[-1] == ("1", 8)
    assert run.forms == {"test: 4x2": "0", "test: 8x2": "1"}


def test_a_form_of_the_checkpoint_that_does_not_fit_here_gives_way_to_the_plain_one():
    made, _ = kernel(1e-4, 1e-6, fits={1})
    run = Choices()
    run.take({"test: 4x2": "1"})
    with computing_with(run):
        assert made.form(torch.ones(4, 2)).name == "0"
    assert run.forms == {"test: 4x2": "1"}


@pytest.mark.parametrize("narrow", [False, True])
def test_auto_without_bf16_has_the_answers_of_float32(narrow, monkeypatch):
    monkeypatch.setattr(kernel_choice, "has_bf16", lambda: narrow)
    with computing_with(Choices("auto")):
        assert kernel_choice.gradients() == ("auto" if narrow else "float32")


def test_nothing_is_measured_where_the_user_asks_for_determinism():
    made, calls = kernel(1e-4, 1e-6)
    torch.use_deterministic_algorithms(True)
    try:
        made(torch.ones(4, 2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert calls == [("0", 4)]
    assert kernel_cache.remembered() == ()


def test_nothing_is_measured_where_a_graph_is_captured():
    made, calls = kernel(0.0, 0.0)

    class Net(torch.nn.Module):
        def forward(self, x):
            return made.form(x).name == "0" and x + 1

    assert torch.equal(torch.export.export(Net(), (torch.ones(4, 2),)).module()(torch.ones(4, 2)), torch.full((4, 2), 2.0))
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        made(mode.from_tensor(torch.ones(4, 2)))
    assert calls == [("0", 4)]


def test_processes_agree_on_the_first_ones_forms():
    assert merged([{"a": "1"}, {"a": "2", "b": "2"}, {"b": "3", "c": "3"}]) == {"a": "1", "b": "2", "c": "3"}
