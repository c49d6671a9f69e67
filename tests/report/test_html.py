"""Pages: one file, readable by everyone, that runs nothing but its own script and asks the network for nothing."""

import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from qat.display.page import Whole
from qat.display.table import Column, Table
from qat.errors import ExportError, MissingDependencyError
from qat.report.html.interactive import drawn
from qat.report.html.labels import short_lines
from qat.report.html.page import Figure, Gallery, Sample, Section, Thumbnail, WebPage
from qat.report.html.palette import DARK, LIGHT, places_of
from qat.report.html.plots import Bar, Bars, HeatMap, Line, Lines, Point, Points, Reference, histogram
from qat.report.html.render import MOST_BYTES, _source, rendered, write_page
from support.browser import browser

#: A name that breaks out of every place that does not escape it.
EVIL = "</script><script>hacked=1</script><img src=x onerror='hacked=1'>\"><a href='javascript:hacked=1'>{{ 7 * 7 }}</style>\x1b"
RNG = np.random.default_rng(0)


def png(side=32):
    out = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


PLOTS = {
    "points": Points(
        f"Size {EVIL}", "KiB", "top-1, %", (Point("float", 400, 98.2, 97.1, 98.9, "float"), Point(EVIL, 108, 96.1, group=EVIL)),
        reference=Reference(EVIL, 98.2),
    ),
    "front": Points(
        "Front", "bytes", "top-1", tuple(Point(f"p{i}", i + 1, i, group="front" if i % 2 else "rest") for i in range(30)),
        joined=("front",), log_x=True,
    ),
    "bars": Bars("Layers", "dB", tuple(Bar(f"layer.{i}.{'x' * 60}", 30 - i, group="int8") for i in range(9)), log=True),
    "intervals": Bars("Top-1", "%", (Bar("$5_x$", 95, 94, 96, "ptq"), Bar(EVIL, 98, 97, 99)), reference=Reference("float", 98)),
    "lines": Lines("Loss", "epoch", "loss", (Line("qat", (1, 2, 3), (0.9, float("nan"), 0.3)), Line(EVIL, (1, 3), (1, 2)))),
    "histogram": histogram("Error", EVIL, [("int8", RNG.normal(size=50)), (EVIL, RNG.normal(size=50))]),
    "heat": HeatMap("Confusion", ("a", EVIL), ("b", "c"), ((1, 2), (float("nan"), 4)), "samples"),
}  # fmt: skip


def page_of(samples=2):
    table = Table(
        (Column("entry"), Column("top-1", right=True)), (("float", "98.20"), (EVIL, "96.10")), "a caption", ("good", "")
    )
    facts = (("float", "3, 98.10 %"), (EVIL, EVIL))
    gallery = Gallery(tuple(Sample(EVIL, "FLIP", "bad", (Thumbnail(png(), EVIL, EVIL),), facts) for _ in range(samples)))
    figures = tuple(Figure(name, plot, EVIL) for name, plot in PLOTS.items())
    sections = (
        Section("Size against accuracy", (*figures, table)),
        Section("Samples", (gallery, Section("Deeper", (EVIL, Whole(EVIL))))),
        Section("Nothing here", ()),
        Section(EVIL, ("A sentence.",)),
    )
    return WebPage(f"digits {EVIL}", f"PTQ is enough: {EVIL}", sections, "good", (("data", EVIL), ("none", "")), (EVIL,))


class Parsed(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        self.texts.append((self.inside, data))

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_page(page_of(), tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def parsed(written):
    return Parsed(written.read_text())


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def test_a_page_is_one_file_with_a_picture_of_each_plot_beside_it(written):
    beside = {path.name for path in written.parent.iterdir()}
    assert beside == {"report.html", *(f"report_{name}.png" for name in PLOTS)}
    assert written.stat().st_size < MOST_BYTES
    for name in PLOTS:
        assert Image.open(written.parent / f"report_{name}.png").width > 500


def test_a_page_is_not_written_over(written):
    with pytest.raises(ExportError, match="exists already"):
        write_page(page_of(), written)


def test_names_are_text_and_no_markup(parsed):
    scripts = parsed.named("script")
    assert [attributes.get("type") for attributes in scripts] == ["application/json", None, None]
    assert {name for _, attributes in parsed.elements for name in attributes if name.startswith("on")} == set()
    assert all(attributes["href"].startswith(("#", "data:,")) for t in ("a", "link") for attributes in parsed.named(t))
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in parsed.named("img"))
    shown = EVIL.replace("\x1b", r"\x1b")
    assert ("h1", f"digits {shown}") in parsed.texts
    assert not any("49" in text for tag, text in parsed.texts if tag in ("h1", "h2", "p", "pre"))


def test_a_policy_lets_the_own_scripts_run_and_nothing_be_fetched(parsed):
    policy = next(m["content"] for m in parsed.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    assert len(re.findall("'sha256-[^']+'", policy)) == 2


def test_headings_are_in_order_and_empty_sections_are_left_out(parsed):
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert not any("Nothing here" in text for _, text in parsed.texts)


def test_tables_and_plots_are_heard_as_well_as_seen(parsed):
    assert {attributes.get("scope") for attributes in parsed.named("th")} == {"col", "row"}
    for images in (parsed.named("img"), [a for a in parsed.named("div") if a.get("role") == "img"]):
        assert images and all(a.get("alt") or a.get("aria-label") for a in images)
    assert any("float 98.20 at 400 (interval 97.10 to 98.90)" in a["alt"] for a in parsed.named("img"))
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in parsed.named("div") if a.get("class") == "scroll")


@pytest.mark.parametrize("name", PLOTS)
def test_plotly_knows_every_word_of_a_figure(name):
    import plotly.graph_objects as go

    document = drawn(PLOTS[name]).document()
    plain = json.loads(re.sub(r"var\(--\w+\)", "#123456", json.dumps(document, allow_nan=False)))
    go.Figure(plain)  # raises for an unknown one


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_has_its_figures_as_a_table_too(name):
    plot = PLOTS[name]
    table = plot.table()
    assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
    assert plot.words().endswith(".")


def test_what_is_too_heavy_is_left_out_and_said():
    samples = tuple(Sample(f"sample {i}", thumbnails=(Thumbnail(png(600), "noise"),)) for i in range(8))
    text = rendered(WebPage("t", "l", (Section("Samples", (Gallery(samples),)),)))
    assert len(text.encode()) < MOST_BYTES
    left_out = int(re.search(r"(\d+) further samples are left out", text)[1])
    assert text.count('class="name"') == 8 - left_out > 0


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("qat.report.html.render.find_spec", lambda name: None if name == "plotly" else True)
    with pytest.raises(MissingDependencyError, match=r"a page needs plotly: pip install 'qat-toolkit\[report\]'"):
        write_page(page_of(), tmp_path / "report.html")


def test_a_page_without_plots_needs_no_script():
    text = rendered(WebPage("t", "l", (Section("a", ("b",)),)))
    assert "<script" not in text and len(text) < 20_000


@pytest.mark.parametrize("names", [("a", "a"), ("a/b",), ("..",)])
def test_figures_need_names_of_their_own(names):
    figures = tuple(Figure(name, PLOTS["lines"]) for name in names)
    with pytest.raises(ValueError, match="distinct names"):
        rendered(WebPage("t", "l", (Section("a", figures),)))


def test_groups_look_the_same_on_every_page():
    assert places_of(["x", "qat", "Float", "x", "y"]) == [2, 1, 0, 2, 3]


@pytest.mark.parametrize("name", ["a", "x" * 48, "x" * 300, "model.layers.3.attention.output.dense", "a b " * 30, "." * 60])
def test_names_in_plots_have_two_lines_at_most(name):
    lines = short_lines(name)
    assert 1 <= len(lines) <= 2
    assert all(0 < len(line) <= 26 for line in lines)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("index", "palette"), [(0, LIGHT), (1, DARK)], ids=["light", "dark"])
def test_colours_stand_out_from_their_ground(index, palette):
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", _source("style.css").split("}\n@media")[index]))
    pairs = [(name, ground) for name in ("text", "muted", "link") for ground in ("page", "raised")]
    pairs += [(mood, ground) for mood in ("good", "bad", "notice") for ground in ("page", f"{mood}-ground")]
    pairs += [("text", f"{mood}-ground") for mood in ("good", "bad", "notice")]
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
    low |= {colour: contrast(colour, colours["page"]) for colour in palette}
    assert {pair: value for pair, value in low.items() if value < 4.5} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_a_browser_shows_the_page_and_asks_for_nothing(chromium, written, width, scheme):
    chromium.open(written, width, scheme)
    assert chromium.said() == []
    assert chromium.requested() == [written.as_uri()]
    assert chromium.overflow() == 0
    drawn_ones = (
        "return [...document.querySelectorAll('.plot')].map((p) => p.querySelector('.main-svg').clientWidth <= p.clientWidth)"
    )
    assert chromium.run(drawn_ones) == [True] * len(PLOTS)
    assert chromium.run("return typeof hacked") == "undefined"
    ground = chromium.run("return getComputedStyle(document.documentElement).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")
    ink = chromium.run("return getComputedStyle(document.querySelector('.plot .xtick text')).fill")
    assert ink == ("rgb(27, 31, 36)" if scheme == "light" else "rgb(232, 235, 239)")


@pytest.mark.slow
def test_every_picture_and_control_is_reached_by_the_keyboard(chromium, written):
    chromium.open(written)
    reached = chromium.run("return [...document.querySelectorAll('a, summary, [tabindex]')].every((e) => e.tabIndex >= 0)")
    assert reached
