"""Places of equal values: a net that gathers by them is equal to its artifact, which takes the first of equals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qat

ENDS = {"onnxruntime": "m.onnx", "litert": "m.tflite"}
IMAGES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def best(scores, boxes):
    values, places = scores.topk(9, 1)
    return values, boxes.gather(1, places[..., None].expand(-1, -1, 4))


def least(scores, boxes):
    _, places = scores.topk(9, 1, largest=False)
    return boxes.gather(1, places[..., None].expand(-1, -1, 4))


def all_in_order(scores, boxes):
    _, places = scores.sort(1, descending=True)
    return boxes.gather(1, places[..., None].expand(-1, -1, 4))[:, :20]


class Head(nn.Module):
    """Scores of places, many of which are equal on the grid, and the boxes that they choose."""

    def __init__(self, choose) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.scores, self.boxes = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)
        self.choose = choose

    def forward(self, x):
        x = self.stem(x).relu()
        return self.choose(self.scores(x).relu().flatten(1), self.boxes(x).flatten(2).transpose(1, 2))


@pytest.mark.parametrize("target", ENDS)
@pytest.mark.parametrize("choose", [best, least, all_in_order])
def test_the_first_of_equal_values_is_taken(choose, target, tmp_path: Path):
    prepared = qat.calibrate(qat.prepare(Head(choose).eval(), IMAGES[:2], target=target), [IMAGES])
    artifact = qat.export(prepared, tmp_path / ENDS[target], verify=[IMAGES])
    assert artifact.parity.exact == 1.0


class Gate(nn.Module):
    """A net that doubles its activations, or convolves them, by their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.other, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = torch.cond(x.mean() > 0.3, lambda y: 2.0 * y, lambda y: self.other(y), (x,))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("target", ENDS)
def test_a_condition_computes_both_branches_and_chooses(target, tmp_path: Path):
    batches = [IMAGES * factor for factor in (0.2, 3.0)]
    model = Gate().eval()
    prepared = qat.calibrate(qat.prepare(model, IMAGES[:2], target=target), batches)
    for batch, branch in zip(batches, (model.other, lambda y: 2.0 * y), strict=True):
        wanted = model.head(branch(model.stem(batch).relu()).mean((2, 3)))
        assert torch.allclose(prepared(batch), wanted, atol=0.1 * float(wanted.abs().max()))
    artifact = qat.export(prepared, tmp_path / ENDS[target], verify=batches)
    assert artifact.parity.exact == 1.0


def test_a_loop_over_values_is_one_sentence():
    class Loop(Gate):
        def forward(self, x):
            _, x = torch.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, 2.0 * y), (torch.tensor(0), self.stem(x)))
            return x

    with pytest.raises(qat.errors.CaptureError, match=r"^torch\.while_loop makes a course .* part of the model before it"):
        qat.prepare(Loop().eval(), IMAGES[:2])
