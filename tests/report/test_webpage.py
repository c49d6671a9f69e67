"""report.html of a comparison: every figure is summary.json's, and each task shows its own pictures."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.errors import ExportError
from qat.report import statistics
from qat.report.cards import blocks
from qat.report.differences import differences
from qat.report.html.page import Gallery
from qat.report.pictures import pixels_of, png_of, with_boxes
from qat.report.render import write_report
from qat.report.samples import KEPT, Chooser
from qat.runtimes.model_file import ModelFile
from support.browser import browser
from support.web_pages import Tables, unknown_numbers

RNG = np.random.default_rng(0)
IMAGES = RNG.random((96, 3, 8, 8)).astype(np.float32)


def compared(net, x, labels, folder=None, **options):
    net = net.eval()
    prepared = qat.calibrate(qat.prepare(net, x[:2]), [x])
    batches = [(x[i : i + 24], {k: v[i : i + 24] for k, v in labels.items()} if isinstance(labels, dict) else labels[i : i + 24])
               for i in range(0, len(x), 24)]  # fmt: skip
    report = qat.compare([net, prepared], batches, dataset="noise", **{"latency_runs": 0} | options)
    return report, folder and write_report([report], folder)


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    return compared(net, IMAGES, np.arange(96) % 4, tmp_path_factory.mktemp("run"), latency_runs=2)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def test_every_figure_of_the_page_is_in_the_summary(classified):
    _, summary = classified
    page = summary.with_name("report.html").read_text()
    assert len(Tables(page).cells) > 100
    assert unknown_numbers(page, json.loads(summary.read_text())) == []


def test_a_wrong_figure_would_be_found(classified):
    _, summary = classified
    page = summary.with_name("report.html").read_text()
    document = json.loads(summary.read_text())
    drift = document["results"][0]["entries"][1]["confidence_drift"]
    assert unknown_numbers(page.replace(f"{drift:.4f}", "0.7654"), document)


def test_the_decision_stands_first_and_every_plot_lies_beside(classified):
    report, summary = classified
    page = summary.with_name("report.html").read_text()
    assert page.index(report.decision) < page.index("<h2")
    for name in ("accuracy", "delta", "size", "drift", "latency", "errors"):
        assert summary.with_name(f"torch_{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_samples_say_what_both_files_answered(classified):
    report, summary = classified
    net, prepared = report.entries
    found = json.loads(summary.read_text())["results"][0]["samples"]
    assert len(found) == len(report.samples) == KEPT
    assert report.examined == prepared.name != net.name
    for sample, values in zip(report.samples, found, strict=True):
        assert np.array_equal(sample.inputs[0], IMAGES[sample.index])
        a, b = (outputs[0] for outputs in (sample.reference, sample.outputs))
        assert values["verdict"] == ("FLIP" if a.argmax() != b.argmax() else "MATCH")
        assert values["label"] == sample.index % 4
        assert values["output_mse"] == pytest.approx(((a - b) ** 2).mean(), rel=1e-4)
        assert values["confidence_drift"] == pytest.approx(
            abs(values["reference"]["confidence"] - values["examined"]["confidence"]) / 100
        )
    page = summary.with_name("report.html").read_text()
    assert page.count("MATCH</span>") + page.count("FLIP</span>") == KEPT


def test_a_browser_shows_the_report(classified, chromium):
    _, summary = classified
    for width in (1280, 400):
        path = summary.with_name("report.html")
        chromium.open(path, width)
        assert chromium.said() == []
        assert chromium.requested() == [path.as_uri()]
        assert chromium.overflow() == 0
        assert chromium.run("return document.querySelectorAll('.plot .main-svg').length") >= 6


def test_flips_come_first_then_drift_however_the_data_are_cut():
    scores = RNG.normal(size=(60, 3)).astype(np.float32)
    other = scores + RNG.normal(scale=0.4, size=scores.shape).astype(np.float32)
    files = [ModelFile(name="float", kind="float", path="a"), ModelFile(name="ours", kind="qat", path="b")]
    chosen = []
    for size in (60, 7, 1):
        chooser = Chooser(files)
        for i in range(0, 60, size):
            chooser.see(np.arange(60)[i : i + size], None, [(scores[i : i + size],), (other[i : i + size],)])
        chosen.append([sample.index for sample in chooser.chosen()])
    flips = np.flatnonzero(scores.argmax(1) != other.argmax(1))
    assert chosen[0] == chosen[1] == chosen[2]
    assert set(flips[:KEPT]) <= set(chosen[0]) if len(flips) <= KEPT else set(chosen[0]) <= set(flips)
    drifts = [sample.drift for sample in chooser.chosen() if not sample.changed]
    assert drifts == sorted(drifts, reverse=True)


def test_the_trained_file_is_examined_before_ptq_and_never_a_float_one():
    def examined(*kinds):
        return Chooser([ModelFile(name=f"{k}{i}", kind=k, path="a") for i, k in enumerate(kinds)]).examined

    assert examined("float", "ptq", "qat", "control") == "qat2"
    assert examined("float", "ptq", "ptq") == "ptq1"
    assert examined("ptq", "qat") == "qat1"
    assert examined("float", "control") == ""


def test_probabilities_are_not_made_probabilities_again():
    logits = RNG.normal(size=(50, 4)) * 3
    shares = statistics.probabilities(logits)
    assert statistics.are_probabilities(shares) and not statistics.are_probabilities(logits)
    other = np.roll(shares, 1, 0)
    expected = np.abs(shares.max(1) - other.max(1)).mean()
    assert statistics.confidence_drift(other, shares) == pytest.approx(expected)
    assert statistics.confidence_drift(np.log(other), np.log(shares)) == pytest.approx(expected)


def test_scores_that_are_masked_by_infinity_are_compared(tmp_path):
    scores = np.array([[1, -np.inf, 3], [2, -np.inf, 1]], np.float32)
    other = np.array([[1, -np.inf, 2], [2, -np.inf, np.inf]], np.float32)
    chooser = Chooser([ModelFile(name="float", kind="float", path="a"), ModelFile(name="ours", kind="qat", path="b")])
    chooser.see(np.arange(2), None, [(scores,), (other,)])
    first, second = chooser.chosen()
    assert (first.verdict, first.mse, second.verdict) == ("FLIP", np.inf, "MATCH") and second.mse == pytest.approx(1 / 3)
    found = differences("ours", "float", [other], [scores])
    assert sum(found.series[0].counts) == 5
    assert differences("ours", "float", [np.full((2, 2), np.inf)], [np.zeros((2, 2))]) is None


def test_a_framework_of_any_name_names_the_plots(classified, tmp_path):
    report, _ = classified
    replace(report, framework="tf keras/3 <b>").save(tmp_path)
    assert (tmp_path / "tf_keras_3_b_accuracy.png").is_file()


def test_segmentation_shows_masks_side_by_side(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    report, summary = compared(net, IMAGES, RNG.integers(0, 4, (96, 8, 8)), tmp_path)
    (gallery,) = blocks(report)
    assert [t.label for t in gallery.samples[0].thumbnails] == ["input", "label", "float", report.examined]
    assert dict(gallery.samples[0].facts)["pixels changed"] == f"{100 * report.samples[0].changed:.2f} %"
    assert unknown_numbers(summary.with_name("report.html").read_text(), json.loads(summary.read_text())) == []


def test_regression_shows_numbers_and_a_histogram_of_errors(tmp_path):
    torch.manual_seed(0)
    rows = RNG.normal(size=(96, 6)).astype(np.float32)
    report, summary = compared(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), rows, rows[:, :2] + 0.1, tmp_path)
    (table,) = blocks(report)
    assert [column.title for column in table.columns] == ["sample", "label", "float", report.examined, "MSE"]
    assert [s.mse for s in report.samples] == sorted((s.mse for s in report.samples), reverse=True)
    assert sum(report.errors.series[0].counts) == 96 * 2
    assert "FLIP</span>" not in summary.with_name("report.html").read_text()


def test_images_are_shown_beside_their_difference():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    report, _ = compared(net, IMAGES, IMAGES)
    (gallery,) = blocks(report)
    assert [t.label for t in gallery.samples[0].thumbnails] == ["input", "float", report.examined, "difference, stretched"]


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.boxes, self.scores = nn.Flatten(), nn.Linear(192, 8), nn.Linear(192, 6)

    def forward(self, x):
        flat = self.body(x)
        return self.boxes(flat).reshape(-1, 2, 4), torch.sigmoid(self.scores(flat)).reshape(-1, 2, 3)


def test_detection_shows_boxes():
    pytest.importorskip("pycocotools")
    torch.manual_seed(0)
    truth = {"boxes": np.tile(np.float32([[0.1, 0.1, 0.6, 0.6]]), (96, 1, 1)), "labels": np.zeros((96, 1), int)}
    report, _ = compared(Detector(), IMAGES, truth, metrics=["map"])
    (gallery,) = blocks(report)
    labels = [thumbnail.label for thumbnail in gallery.samples[0].thumbnails]
    assert labels[0] == "label: 1" and labels[1].startswith("float: ") and labels[2].startswith(f"{report.examined}: ")


@pytest.mark.slow
def test_several_reports_are_one_page(classified, tmp_path):
    report, _ = classified
    again = replace(report, framework="keras", decision="QAT is needed: <b>so</b>.")
    page = (write_report([report, again], tmp_path).parent / "report.html").read_text()
    assert page.count("<h1>") == 1 and page.count("<h2 ") == 3 and page.count('<h3 id="s-noise-keras-96-samples-samples">') == 1
    assert "keras: QAT is needed: &lt;b&gt;so&lt;/b&gt;." in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert (tmp_path / "keras_accuracy.png").is_file() and (tmp_path / "torch_accuracy.png").is_file()


def test_a_report_is_saved_once(classified, tmp_path):
    report, _ = classified
    page = report.save(tmp_path / "new")
    assert page == tmp_path / "new" / "report.html" and page.is_file()
    with pytest.raises(ExportError, match="exists already"):
        report.save(tmp_path / "new")
    assert report.save(tmp_path / "new", overwrite=True) == page


def test_a_box_is_drawn_where_it_is():
    black = np.zeros((20, 40, 3), np.uint8)
    for box in ((10.0, 5.0, 20.0, 10.0), (0.25, 0.25, 0.5, 0.5)):
        drawn = with_boxes(black, [box], [0]).any(-1)
        ys, xs = np.nonzero(drawn)
        assert (xs.min(), ys.min(), xs.max(), ys.max()) == (10, 5, 30, 15)
        assert not drawn[10, 20]


@pytest.mark.parametrize(
    ("array", "corner"),
    [
        (np.full((3, 8, 8), 0.5), 128), (np.full((8, 8, 1), 200.0), 200), (np.linspace(-2, 2, 64).reshape(8, 8), 0),
        (np.linspace(-2, 2, 64 * 3).reshape(3, 8, 8), 0),
    ],
)  # fmt: skip
def test_arrays_of_either_layout_are_images(array, corner):
    pixels = pixels_of(array)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0, 0] == corner
    assert png_of(pixels)[:4] == b"\x89PNG"


@pytest.mark.parametrize("shape", [(6,), (2, 3), (16, 4, 9, 9), (128, 6), (1, 5)])
def test_other_arrays_are_no_images(shape):
    assert (pixels_of(np.zeros(shape)) is None) == (shape != (128, 6))


def test_a_gallery_is_not_made_of_rows():
    report, _ = compared(nn.Sequential(nn.Linear(6, 4)), RNG.normal(size=(48, 6)).astype(np.float32), np.arange(48) % 4)
    assert not any(isinstance(block, Gallery) for block in blocks(report))
    assert {row[1] for block in blocks(report) for row in block.rows} <= {"MATCH", "FLIP"}
