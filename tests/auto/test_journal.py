"""The journal: nothing that was written is lost, whatever a kill cuts off."""

from __future__ import annotations

from qat.auto.choices import Choices
from qat.auto.goal import Figures
from qat.auto.journal import Attempt, Journal
from qat.planning.recipe import load_recipe

FIGURES = Figures("top1", 90.0, 91.0, -1.0, -2.0, 0.5, 0.2, 30.0, 500)


def written(folder):
    journal = Journal.opened(folder, resume=False)
    journal.add("float", seconds=2.0)
    journal.add("begin", step="ptq", why="first", training={})
    journal.add_attempt(
        Attempt("ptq", "tried", "first", 3.0, "ptq.onnx", Choices(load_recipe("static_wi8_ai8")), FIGURES, "unsure", "said")
    )
    journal.add_attempt(Attempt("ptq_mse", "skipped", "no use"))
    return journal


def test_what_was_written_is_read(tmp_path):
    before = written(tmp_path)
    again = Journal.opened(tmp_path, resume=True)
    assert again.lines == before.lines
    assert again.attempts == before.attempts
    assert again.attempts[0].figures == FIGURES
    assert again.seconds == 5.0
    assert again.begun("ptq") is None


def test_a_line_that_a_kill_cut_is_left_out(tmp_path):
    journal = written(tmp_path)
    journal.add("begin", step="qat", why="why", training={"time_budget": 9.5})
    whole = journal.path.read_text()
    journal.path.write_text(whole + '{"event": "step", "st')
    again = Journal.opened(tmp_path, resume=True)
    assert again.path.read_text() == whole
    assert again.begun("qat")["training"] == {"time_budget": 9.5}
    assert again.begun("ptq") is None


def test_a_new_search_keeps_the_earlier_one(tmp_path):
    written(tmp_path)
    (tmp_path / "checkpoints" / "qat").mkdir(parents=True)
    for n in (1, 2):
        assert Journal.opened(tmp_path, resume=False).lines == []
        written(tmp_path)
        assert (tmp_path / f"earlier.{n}" / "journal.jsonl").is_file()
    assert (tmp_path / "earlier.1" / "checkpoints" / "qat").is_dir()


def test_a_step_that_was_skipped_and_then_tried_counts_once(tmp_path):
    journal = written(tmp_path)
    journal.add_attempt(Attempt("ptq_mse", "failed", "an error", 1.0))
    assert [(a.step, a.outcome) for a in journal.attempts] == [("ptq", "tried"), ("ptq_mse", "failed")]
