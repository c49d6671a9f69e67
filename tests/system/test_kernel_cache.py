"""What `qat doctor` says of the kernels that were measured."""

import json

import pytest

from qat.system import kernel_cache
from support.command_line import CommandLine


@pytest.fixture
def qat(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return CommandLine(tmp_path, capfd)


def test_the_first_answer_to_a_question_counts(qat):
    of = kernel_cache.conditions("torch 0", 3)
    assert kernel_cache.remember(of, "sum: 4x2", "quick") == "quick"
    assert kernel_cache.remember(of, "sum: 4x2", "slow") == "quick"
    assert kernel_cache.remember(kernel_cache.conditions("torch 0", 4), "sum: 4x2", "slow") == "slow"
    assert kernel_cache.answers(of) == {"sum: 4x2": "quick"}


def test_doctor_says_what_was_chosen(qat):
    assert "fastest form" not in qat("doctor").stdout
    of = kernel_cache.conditions("torch 0", 3)
    for question, form in (("sum: 4x2", "quick"), ("sum: 8x2", "quick"), ("sum: 9x2", "slow"), ("product: 1", "slow")):
        kernel_cache.remember(of, question, form)
    said = qat("doctor").stdout
    assert "kernels of torch 0" in said and "3 threads" in said and "quick 2, slow 1" in said
    (measured,) = json.loads(qat("doctor", "--json").stdout)["kernels"]
    assert measured["conditions"]["framework"] == "torch 0" and measured["conditions"]["threads"] == 3
    assert measured["forms"]["sum: 9x2"] == "slow"
