"""Limits of a target's kernels, found when a model is planned and not when it is exported."""

import torch
from torch import nn

import qat


class Tokens(nn.Module):
    """A dense layer on a tensor of rank 3, then one of rank 2."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(4, 4)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.mixed(x).flatten(1))


def test_tensorrt_leaves_a_dense_layer_of_rank_3_in_float_and_exports_it(tmp_path):
    x = torch.randn(8, 6, 4, generator=torch.Generator().manual_seed(0))
    planned = qat.plan(Tokens().eval(), x[:2], target="tensorrt")
    assert {op.op.scope: op.reason for op in planned.ops if op.op.kind == "dense"} == {
        "mixed": "target 'tensorrt' has no integer kernel for dense on 3 axes",
        "head": "",
    }
    prepared = qat.calibrate(qat.prepare(Tokens().eval(), x[:2], target="tensorrt"), [x])
    assert qat.export(prepared, tmp_path / "tokens.onnx").path.is_file()


def test_other_targets_run_it_on_integers():
    for target in ("onnxruntime", "litert"):
        assert not qat.plan(Tokens().eval(), torch.zeros(2, 6, 4), target=target).floats()
