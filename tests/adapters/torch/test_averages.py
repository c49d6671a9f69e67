"""Means and sums over any axes, and averages of windows: all in integers, exact in both runtimes."""

import pytest
import torch
import torch.nn.functional as F

import qat
from support.operators import RUNTIMES, Then, check_then

CASES = {
    "mean of channels": lambda m, x: x.mean(1),
    "mean of a spatial axis": lambda m, x: x.mean(2),
    "mean of the last axis, kept": lambda m, x: x.mean(-1, keepdim=True),
    "mean of tokens": lambda m, x: x.flatten(2).transpose(1, 2).mean(1),
    "mean of channels and columns": lambda m, x: x.mean((1, 3), keepdim=True),
    "mean of all": lambda m, x: x.mean((1, 2, 3)).unsqueeze(1),
    "sum over the image": lambda m, x: x.sum((2, 3)),
    "sum of channels": lambda m, x: x.sum(1, keepdim=True),
    "adaptive": lambda m, x: F.adaptive_avg_pool2d(x, 3),
    "adaptive of other sizes": lambda m, x: F.adaptive_avg_pool2d(x, (2, 1)),
    "adaptive rows": lambda m, x: F.adaptive_avg_pool1d(x.flatten(2), 4),
    "average that counts its padding": lambda m, x: F.avg_pool2d(x, 3, 2, 1),
    "average that leaves its padding out": lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average of large windows": lambda m, x: F.avg_pool2d(x, 5, 1, 2, count_include_pad=False),
    "average of wide windows": lambda m, x: F.avg_pool2d(x, (1, 3), (1, 2), (0, 1), count_include_pad=False),
    "average that counts its padding, rounded up": lambda m, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average of a signal that counts its padding": lambda m, x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
    "average of a signal that leaves its padding out": lambda m, x: F.avg_pool1d(x.flatten(2), 3, 2, 1, False, False),
    "average whose last windows pass the edge": lambda m, x: F.avg_pool2d(x, 4, 4, ceil_mode=True),
    "average whose last windows end at the edge": lambda m, x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
}


@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_averages_run_on_integers(name, target, suffix, tmp_path):
    check_then(CASES[name], None, target, tmp_path / f"m.{suffix}")


def test_average_with_more_padding_than_half_a_window_stays_float_in_a_tflite(tmp_path):
    model, x = Then(lambda m, x: F.avg_pool2d(x, 2, 2, 1, count_include_pad=False)).eval(), torch.randn(2, 3, 6, 6)
    floats = qat.plan(model, x, target="litert").floats()
    assert "windows lie by more than a half in the padding" in floats["avg_pool2d"]
    assert not qat.plan(model, x, target="onnxruntime").floats()


def test_windows_of_several_sizes_stay_float():
    model = Then(lambda m, x: F.adaptive_avg_pool2d(x, 4)).eval()
    assert "adaptive_avg_pool2d" in qat.plan(model, torch.randn(2, 3, 6, 6)).floats()
