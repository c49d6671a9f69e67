"""Progress: what is shown on a terminal and in a pipe, and what is not."""

import io
import os
import pty
import subprocess
import sys
import termios
import threading

import numpy as np
import pytest

import qat
from qat.cli.terminal import Notices
from qat.display import progress
from qat.display.progress import Bar, bar, paused, shown, tracked


class Stream(io.StringIO):
    terminal = False

    def close(self):
        """Stay readable."""


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def stderr(request, monkeypatch):
    """The standard error, a pipe or a terminal."""
    stream = Stream()
    stream.terminal = request.param
    monkeypatch.setattr(progress, "_stream", lambda: stream)
    monkeypatch.setattr(progress, "_has_cursor", lambda: stream.terminal)
    monkeypatch.delenv("RANK", raising=False)
    return stream


def test_a_line_has_what_is_done_and_what_is_left():
    made = Bar("calibration", 200, 0)
    made.done, made.note = 50, "batch"
    assert made.line(30.0) == "  calibration: 50 of 200, 30 s so far, about 1 min 30 s left (batch)"
    resumed = Bar("epoch 2/3", 100, 60)
    assert resumed.line(4.0) == "  epoch 2/3: 60 of 100, 4 s so far"
    resumed.done = 80
    assert resumed.line(7200.0) == "  epoch 2/3: 80 of 100, 2 h 0 min so far, about 2 h 0 min left"
    assert Bar("export", None).line(75) == "  export: 1 min 15 s so far"


def test_a_pipe_gets_few_lines_and_a_terminal_a_bar(stderr):
    with bar("calibration", 10) as made:
        for second in range(120):
            made.done = second // 12
            made.tick(float(second))
    text = stderr.getvalue()
    if stderr.terminal:
        assert "calibration" in text and "9/10" in text
        assert "\r  0%" not in text  # it is not drawn before it has its title
        assert "<" in text  # tqdm's elapsed<left
        assert text.rstrip(" ").endswith("\r")  # the bar is gone
    else:
        times = [line.split(", ")[1].removesuffix(" so far") for line in text.splitlines()]
        assert times == ["10 s", "40 s", "1 min 10 s", "1 min 40 s"]
        assert "\x1b" not in text and "\r" not in text


def test_what_is_over_soon_shows_nothing(stderr):
    assert list(tracked(range(3), "quick")) == [0, 1, 2]
    assert stderr.getvalue() == ""


def test_where_a_line_can_be_written_again(monkeypatch):
    for terminal, kind, cursor in ((True, "xterm", True), (True, "dumb", False), (False, "xterm", False)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setenv("TERM", kind)
        assert progress._has_cursor() is cursor


@pytest.mark.parametrize("how", ["shown", "rank"])
def test_hidden_progress_starts_no_thread(stderr, monkeypatch, how):
    if how == "rank":
        monkeypatch.setenv("RANK", "1")
    before = threading.active_count()
    with shown(how == "rank"), bar("calibration", 10), shown(True), bar("within", 10):  # what is hidden outside stays hidden
        assert threading.active_count() == before


def test_in_a_pipe_the_innermost_speaks(stderr):
    with bar("outer") as outer, bar("inner", 4) as inner:
        outer.tick(60.0)
        inner.tick(60.0)
    if not stderr.terminal:
        assert stderr.getvalue() == "  inner: 0 of 4, 1 min 0 s so far\n"


def test_text_between_bars_stands_on_a_line_of_its_own(stderr):
    import logging

    with bar("calibration", 10) as made:
        made.tick(3.0)
        handler = Notices(stderr)
        handler.emit(logging.LogRecord("qat", logging.WARNING, "", 0, "few samples", (), None))
        with paused():
            stderr.write("text\n")
    after = [part.strip(" \r") for part in stderr.getvalue().replace("\r", "\n").splitlines()]
    assert "few samples" in after and "text" in after


def test_a_timed_loop_keeps_every_thread_still(stderr):
    with bar("outer"), bar("timing", 2, still=True) as made:
        threads = [thread for thread in threading.enumerate() if thread.name == "progress"]
        assert len(threads) == 1  # that of the outer bar, which looks away
        assert made.still and progress._OPEN[-1] is made
    assert not progress._OPEN


STAGES = {
    "calibration", "bias correction", "AdaRound, layer by layer", "training", "evaluation", "export of m", "verification",
    "PTQ baselines", "comparison", "running the files", "timing",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("visible", [True, False])
def test_every_stage_shows_progress_and_one_keyword_hides_it(framework, visible, monkeypatch, tmp_path):
    opened = set()
    monkeypatch.setattr(Bar, "open", lambda self, still: opened.add(self.title.split(".")[0]))
    x, y = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32), np.arange(32) % 3
    if framework == "torch":
        import torch

        net, suffix = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)), ".onnx"
    else:
        import keras

        layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
        net, suffix = keras.Sequential([keras.Input((4,)), *layers]), ".tflite"
    model = qat.calibrate(qat.prepare(net, x), [x], progress=visible)
    qat.correct_biases(model, [x], progress=visible)
    qat.adaround(model, [x], steps=2, progress=visible)
    qat.finetune(model, [(x, y)], [(x, y)], progress=visible)
    qat.evaluate(model, [(x, y)], progress=visible)
    artifact = qat.export(model, tmp_path / f"m{suffix}", verify=[x], progress=visible)
    made = qat.ptq_baselines(net, [x], tmp_path, progress=visible)
    qat.compare([made[0], artifact], [(x, y)], latency_runs=1, progress=visible)
    assert opened == (STAGES if visible else set())


SLOW = """
import os, threading
import qat.display.progress as progress
from qat.system.silence import quiet
progress._DELAY, progress._FIRST_LINE = 0.05, 0.05
ticked, tick = threading.Event(), progress.Bar.tick
progress.Bar.tick = lambda bar, elapsed: (tick(bar, elapsed), ticked.set())
with progress.bar("PTQ baselines", 4) as made, quiet():
    os.write(2, b"noise")
    made.advance()
    ticked.wait()
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_seen_while_a_tools_output_is_discarded(terminal):
    """The tools' own words go nowhere; the bar around them does not."""
    master, slave = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(slave, (24, 80))
    subprocess.run([sys.executable, "-c", SLOW], stderr=slave, check=True, timeout=60, env={**os.environ, "TERM": "xterm"})
    text = os.read(master, 65536).decode()
    os.close(slave)
    os.close(master)
    assert "PTQ baselines" in text and "noise" not in text
    assert ("1/4" if terminal else "1 of 4") in text
