"""Tables at any width: no figure and no name is cut, and a pipe gets a line a row."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.display.layout import cells
from qat.display.page import Page
from qat.display.stream import is_ascii, width_of
from qat.display.table import Column, Table, facts

WORD = st.text(alphabet="abcxyz019._/-", min_size=1, max_size=30)


@st.composite
def tables(draw):
    columns = [Column("name"), *(Column(f"c{i}", right=draw(st.booleans())) for i in range(draw(st.integers(0, 9))))]
    columns += [Column("why", prose=True)] if draw(st.booleans()) else []
    rows = [
        tuple(" ".join(draw(st.lists(WORD, max_size=12))) if c.prose else draw(WORD) for c in columns)
        for _ in range(draw(st.integers(1, 4)))
    ]
    return Table(tuple(columns), tuple(rows), draw(st.sampled_from(["", "a title of some words"])))


@settings(deadline=None, max_examples=300)
@given(tables(), st.integers(30, 220))
def test_nothing_is_cut_at_any_width(table, width):
    text = Page((table,)).text(width)
    for row in table.rows:
        for column, value in zip(table.columns, row, strict=True):
            for part in value.split() if column.prose else [value]:
                assert re.search(rf"(?<!\S){re.escape(part)}(?![^\s,])", text), (part, text)
    for line in text.splitlines():
        # A value that is wider than the terminal, with its title at most.
        assert cells(line) <= width or len(line.replace(": ", ":").split()) == 1, line


@settings(deadline=None)
@given(tables())
def test_a_pipe_gets_a_line_a_row(table):
    lines = Page((table,)).text().splitlines()
    assert len(lines) == len(table.rows) + 2 + bool(table.title)
    for row, line in zip(table.rows, lines[-len(table.rows) :], strict=True):
        assert all(value in line for value in row)


FIGURES = Table(
    (Column("entry"), *(Column(f"figure {i}", right=True) for i in range(11))),
    tuple((f"a_tool_with_a_name_{row}", *(f"{100 * row + i:.3f}" for i in range(11))) for row in range(3)),
    "figures",
)


def test_figures_continue_in_further_tables_that_repeat_the_names():
    lines = Page((FIGURES,)).text(80).splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line for line in lines if line.startswith("entry")]
    assert len(heads) > 1
    assert " ".join(heads).count("figure") == 11
    for row in range(3):
        values = [v for line in lines if line.startswith(f"a_tool_with_a_name_{row} ") for v in line.split()[1:]]
        assert values == [f"{100 * row + i:.3f}" for i in range(11)]


def test_a_wide_terminal_shows_a_row_in_a_line():
    lines = Page((FIGURES,)).text(200).splitlines()
    assert len(lines) == 6
    assert all(len(line) <= 200 for line in lines)


def test_long_names_stand_on_lines_of_their_own():
    name = "backbone/stage_1/block_3/depthwise/batch_normalization/FusedBatchNormV3;weight"
    table = Table((Column("weight"), Column("shape"), Column("scales", right=True)), ((name, "3x3x1x8", "0.0123"),))
    lines = Page((table,)).text(60).splitlines()
    assert name in lines
    assert lines[-1].split() == ["3x3x1x8", "0.0123"]


def test_prose_is_wrapped_between_words_and_a_path_is_not():
    path = "/a/very/long/folder/with/a/name-that-has-hyphens/and_more_of_it/file.onnx"
    lines = Page((facts(("file", path), ("why", "some words " * 20)), f"see {path} for more")).text(50).splitlines()
    assert any(path in line for line in lines)
    assert all(len(line) <= 50 for line in lines if path not in line)
    assert " ".join(lines).split().count("words") == 20


def test_a_table_without_rows_is_its_head():
    table = Table((Column("a name that is long"), Column("a reason that is long, too", prose=True)), ())
    assert "a reason that is long, too" in Page((table,)).text(30)


def test_texts_are_escaped():
    table = Table((Column("<b>"),), (("<script>alert('1')</script>",),), "a & b")
    html = Page((table, "x < y")).html()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "a &amp; b" in html and "<p>x &lt; y</p>" in html
    text = Page((Table((Column("name"),), (("evil\x1b[31m\rname\x9b\nnext",),)),)).text(80)
    assert r"evil\x1b[31m\rname\x9b next" in text


def test_what_is_said_in_ascii_keeps_names():
    text = Page((Table((Column("entry"), Column("Δ float")), (("café", "–"),)),)).text(80, ascii_only=True)
    assert text.splitlines() == ["entry  d float", "-----  -------", "café   -"]


@pytest.mark.parametrize(
    ("encoding", "environment", "ascii_only"),
    [
        ("utf-8", {}, False), ("utf-8", {"LANG": "en_US.UTF-8"}, False), ("utf-8", {"LANG": "C"}, True),
        ("utf-8", {"LC_ALL": "C", "LANG": "en_US.UTF-8"}, True), ("utf-8", {"LC_CTYPE": "C.UTF-8", "LANG": "C"}, True),
        ("utf-8", {"LANG": "C.UTF-8"}, False), ("ascii", {"LANG": "en_US.UTF-8"}, True), ("cp1252", {}, True),
    ],
)  # fmt: skip
def test_which_letters_a_stream_shows(encoding, environment, ascii_only, monkeypatch):
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = type("Stream", (), {"encoding": encoding})()
    assert is_ascii(stream) is ascii_only


def test_the_width_of_a_stream(monkeypatch):
    stream = type("Stream", (), {"isatty": lambda self: False})()
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width_of(stream) is None
    monkeypatch.setenv("COLUMNS", "97")
    assert width_of(stream) == 97
