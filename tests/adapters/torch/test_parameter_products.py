"""Products with a parameter, however PyTorch lets one write them: fully connected layers, exact in both formats, and trained."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat

X = torch.randn(8, 6, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A product with ``self.w``, between two layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(12, 10), nn.Linear(8, 3)
        self.w, self.b = nn.Parameter(self.channels(10, 8)), nn.Parameter(torch.randn(8))

    @staticmethod
    def channels(*sizes):
        """Random numbers, whose last axis has very different scales."""
        return torch.randn(*sizes) * torch.logspace(-2, 0, sizes[-1])

    def forward(self, x):
        return self.last(torch.relu(self.product(torch.relu(self.first(x)))))


class Addmm(Net):  # the Conv1D of transformers
    def product(self, x):
        return torch.addmm(self.b, x.view(-1, x.size(-1)), self.w).view(*x.size()[:-1], 8)


class AddmmScaled(Net):
    def product(self, x):
        return torch.addmm(self.b, x.mean(1), self.w, beta=0.5, alpha=0.25)


class Mm(Net):
    def product(self, x):
        return torch.mm(x.mean(1), self.w)


class Matmul(Net):
    def product(self, x):
        return x @ self.w + self.b


class Bmm(Net):
    def product(self, x):
        return torch.bmm(x, self.w.unsqueeze(0).expand(x.shape[0], -1, -1))


class Baddbmm(Net):
    def product(self, x):
        return torch.baddbmm(self.b, x, self.w[None].repeat(x.shape[0], 1, 1))


class Left(Net):
    def product(self, x):
        return (self.w.T @ x.transpose(1, 2)).transpose(1, 2)


class LeftOfRows(Net):
    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(4, 6))

    def product(self, x):
        return torch.matmul(self.rows, x) @ self.w


class Einsum(Net):
    def product(self, x):
        return torch.einsum("io,bti->bto", self.w, x)


class EinsumOfHeads(Net):
    def __init__(self):
        super().__init__()
        self.heads, self.back = nn.Parameter(torch.randn(10, 2, 5) / 3), nn.Parameter(torch.randn(2, 5, 8) / 3)

    def product(self, x):
        y = torch.relu(torch.einsum("bti,ihd->bhtd", x, self.heads))
        return torch.einsum("bhtd,hdo->bto", y, self.back)


class Tensordot(Net):
    def product(self, x):
        return torch.tensordot(x, self.w, dims=([2], [0]))


class LinearOfAComputedWeight(Net):
    def product(self, x):
        return F.linear(x, self.w.T * 2 + 0.01, self.b)


class ByOneOfAComputedWeight(Net):  # relative positions (VITS)
    def product(self, x):
        return x @ (self.w.T[None] * 2).transpose(-2, -1)


class OfABuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("fixed", self.channels(10, 8))

    def product(self, x):
        return x @ self.fixed + x @ self.w


class Mv(Net):
    def __init__(self):
        super().__init__()
        self.v, self.last = nn.Parameter(torch.randn(10)), nn.Linear(6, 3)

    def product(self, x):
        return torch.matmul(x, self.v) + torch.addmv(x[:, 1, 0], x[:, 0], self.v).unsqueeze(1)


NETS = [Addmm, AddmmScaled, Mm, Matmul, Bmm, Baddbmm, Left, LeftOfRows, Einsum, EinsumOfHeads, Tensordot, LinearOfAComputedWeight,
        ByOneOfAComputedWeight, OfABuffer, Mv]  # fmt: skip


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("net", NETS)
def test_is_a_layer(net, suffix, tmp_path):
    model = net().eval()
    prepared = qat.prepare(model, X[:2], target="onnxruntime" if suffix == "onnx" else "litert").eval()
    with torch.no_grad():
        torch.testing.assert_close(prepared(X), model(X), rtol=1e-4, atol=1e-4)
    assert prepared.plan.floats() == {}
    layers = [planned for planned in prepared.plan.ops if planned.op.kind == "dense"]
    assert len(layers) >= 3 and all(planned.integer and planned.weight.granularity == "channel" for planned in layers)
    assert not [planned for planned in prepared.plan.ops if planned.op.kind in ("matmul", "constant")]
    assert dict(prepared.named_parameters()).keys() >= dict(model.named_parameters()).keys() - {"w", "b"}
    qat.calibrate(prepared, [X])
    prepared.train()(X).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prepared.parameters() if p.requires_grad)
    assert qat.export(prepared.eval(), tmp_path / f"net.{suffix}", verify=[X]).parity.exact == 1.0


def test_a_product_over_the_batch_is_none(tmp_path):
    class OverTheBatch(Net):
        def product(self, x):
            return x @ self.w * (torch.ones(8, 4) @ torch.ones(4, 8)).mean()

    prepared = qat.prepare(OverTheBatch().eval(), X[:2]).eval()
    torch.testing.assert_close(prepared(X), OverTheBatch().eval()(X), rtol=1e-4, atol=1e-4)
