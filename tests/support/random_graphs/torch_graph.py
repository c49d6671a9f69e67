"""A drawn graph as a PyTorch model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from .specs import VOCABULARY, Shape, Spec, Step

ACTIVATIONS = {
    "relu": F.relu, "relu6": F.relu6, "hard_swish": F.hardswish, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "gelu": F.gelu, "leaky_relu": F.leaky_relu, "hard_sigmoid": F.hardsigmoid, "elu": F.elu, "softplus": F.softplus,
}  # fmt: skip


class Standardized(nn.Module):
    """A parametrization: each output channel's weights have the mean 0 and the variance 1."""

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        variance, mean = torch.var_mean(rows, 1, keepdim=True, correction=0)
        return ((rows - mean) * torch.rsqrt(variance + 1e-3)).view_as(weight)


def computed(layer: nn.Module, how: str | None) -> nn.Module:
    """Return the layer with a weight that is computed from its parameters."""
    if how == "weight_norm":
        return parametrizations.weight_norm(layer)
    if how == "spectral_norm":
        return parametrizations.spectral_norm(layer)
    if how == "standardized":
        parametrize.register_parametrization(layer, "weight", Standardized())
    elif how == "pruned":
        prune.random_unstructured(layer, "weight", 0.5)
    return layer


class Layer(nn.Module):
    """One step: its parameters, and what it computes."""

    def __init__(self, step: Step, shape: Shape) -> None:
        super().__init__()
        self.step, o = step, step.options
        if step.op in ("conv", "depthwise"):
            filters, groups = (o["filters"], o["groups"]) if step.op == "conv" else (shape[0], shape[0])
            padding = o["dilation"] * (o["kernel"] - 1) // 2 if o["same"] else 0
            conv = nn.Conv2d(shape[0], filters, o["kernel"], o["stride"], padding, o["dilation"], groups, o["bias"])
            self.conv = computed(conv, o.get("computed"))
            self.norm = nn.BatchNorm2d(filters) if o["norm"] else nn.Identity()
        elif step.op == "conv_transpose":
            self.conv = nn.ConvTranspose2d(shape[0], o["filters"], o["kernel"], 2)
        elif step.op == "dense":
            self.linear = computed(nn.Linear(shape[-1], o["units"], o["bias"]), o["computed"])
        elif step.op == "embedding":
            self.embedding = nn.Embedding(VOCABULARY, o["width"])
        elif step.op == "constant":
            values = shape if o["whole"] else (shape[0], 1, 1) if len(shape) == 3 else (shape[-1],)
            self.register_buffer("values", torch.randn(values))
        elif step.op == "squeeze_excite":
            self.reduce, self.expand = nn.Conv2d(shape[0], o["squeezed"], 1), nn.Conv2d(o["squeezed"], shape[0], 1)
        elif step.op == "attention":
            self.q, self.k, self.v = (nn.Linear(shape[-1], o["key"]) for _ in range(3))
            self.out = nn.Linear(o["key"], shape[-1])
        elif step.op == "norm":
            self.layer_norm = nn.LayerNorm(shape[-1])

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        op, o = self.step.op, self.step.options
        if op in ("conv", "depthwise"):
            return self.act(self.norm(self.conv(x)))
        if op == "conv_transpose":
            return self.conv(x)
        if op == "dense":
            return self.act(self.linear(x))
        if op in ("max_pool", "avg_pool"):
            pool = F.max_pool2d if op == "max_pool" else F.avg_pool2d
            return pool(x, o["kernel"], o["stride"], (o["kernel"] - 1) // 2 if o["same"] else 0)
        if op == "squeeze_excite":
            return x * torch.sigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        if op == "attention":
            return self.out(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), **self.masked(x.shape[1])))
        return self.simple(x, y)

    def masked(self, tokens: int) -> dict[str, object]:
        """Return what hides tokens from the attention."""
        mask = self.step.options["mask"]
        if mask in (None, "causal"):
            return {"is_causal": mask == "causal"}
        seen = torch.arange(tokens) < max(1, tokens - 2)
        return {"attn_mask": seen.expand(tokens, tokens) if mask == "hidden" else torch.where(seen, 0.0, -1e4)}

    def act(self, x: Tensor) -> Tensor:
        name = self.step.options["act"]
        return x if name is None else ACTIVATIONS[name](x)

    def simple(self, x: Tensor, y: Tensor | None) -> Tensor:
        op, o = self.step.op, self.step.options
        if op == "activation":
            return self.act(x)
        if op == "norm":
            return self.layer_norm(x)
        if op == "embedding":
            return self.embedding(x)
        if op == "constant":
            other = F.normalize(self.values, dim=0) + 0.5
            return x + other if o["how"] == "add" else x * other
        if op == "pad":
            (top, bottom), (left, right) = o["padding"]
            return F.pad(x, (left, right, top, bottom))
        if op == "crop":
            return x[:, o["channel"] :, o["top"] :]
        if op == "upsample":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        if op == "mean":
            return x.mean((2, 3)) if x.ndim == 4 else x.mean(1)
        if op == "flatten":
            return x.flatten(1)
        if op == "tokens":
            return x.flatten(2).transpose(1, 2)
        if op == "transpose":
            return x.transpose(2, 3)
        assert y is not None
        return {"add": torch.add, "mul": torch.mul, "concat": lambda a, b: torch.cat([a, b], 1 if a.ndim == 4 else -1)}[op](x, y)


class Model(nn.Module):
    """The whole graph. BatchNorm has statistics of its own, as after training."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        torch.manual_seed(spec.seed)
        self.spec = spec
        self.layers = nn.ModuleList([Layer(step, spec.shapes[step.sources[0]]) for step in spec.steps])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = list(inputs)
        for layer, step in zip(self.layers, self.spec.steps, strict=True):
            values.append((self.layers[step.options["of"]] if step.op == "again" else layer)(*(values[i] for i in step.sources)))
        outputs = tuple(values[i] for i in self.spec.outputs)
        return outputs[0] if len(outputs) == 1 else outputs
