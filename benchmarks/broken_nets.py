"""The networks of :mod:`broken_artifacts`: small, in both frameworks, with channels changed on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

#: Trained weights: most faults are made of one network.
_TRAINED: dict[tuple[object, ...], Any] = {}

if TYPE_CHECKING:
    from broken_artifacts import Kit


def convolutions_of(kit: Kit, detector: float = 0.0, large_channel: float = 0.0, dead: int = 0, positive: bool = False) -> Any:
    """Return a network of three convolutions and a dense layer, trained on the kit's data.

    Args:
        kit: framework, seed, data.
        detector: by how much a channel of the second convolution is larger than the others where it is active, which is rare.
        large_channel: by how much one channel of the second convolution is larger, and what reads it smaller.
        dead: how many channels of the second convolution have no weights.
        positive: whether the second convolution's weights are all of one sign and about equal.
    """
    build = _torch_convolutions if kit.framework == "torch" else _keras_convolutions
    net, access = build(kit)
    weight, bias, after = access.get()
    if positive:
        weight = np.abs(weight) * 0.05 + np.abs(weight).max()
    responses = access.responses(kit.x[:128])
    one = int(responses.std((0, 1, 2)).argmax())
    if dead:
        weight[:dead] = 0
    if large_channel:
        weight[one], bias[one], after[:, one] = (
            weight[one] * large_channel,
            bias[one] * large_channel,
            after[:, one] / large_channel,
        )
    if detector:
        edges = np.quantile(responses, 0.999, (0, 1, 2))
        beyond = responses.max((0, 1, 2)) - edges
        rare = int((beyond / responses.std((0, 1, 2))).argmax())
        scale = detector * responses.std() / beyond[rare]
        weight[rare], bias[rare], after[:, rare] = (
            weight[rare] * scale,
            (bias[rare] - edges[rare]) * scale,
            after[:, rare] / scale,
        )
    access.set(weight, bias, after)
    return net


class _TorchAccess:
    """The second convolution of a PyTorch network, output channels first, and what reads it, input channels second."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def get(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        second, third = self.net[2], self.net[4]
        return tuple(p.detach().numpy().copy() for p in (second.weight, second.bias, third.weight))

    def set(self, weight: np.ndarray, bias: np.ndarray, after: np.ndarray) -> None:
        import torch

        with torch.no_grad():
            for parameter, value in zip(
                (self.net[2].weight, self.net[2].bias, self.net[4].weight), (weight, bias, after), strict=True
            ):
                parameter.copy_(torch.from_numpy(value))

    def responses(self, x: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.net[:3](torch.from_numpy(x)).numpy().transpose(0, 2, 3, 1)


class _KerasAccess:
    """The same of a Keras network."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def get(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        second, third = self.net.layers[1], self.net.layers[2]
        kernel, bias = second.get_weights()
        return kernel.transpose(3, 2, 0, 1).copy(), bias.copy(), third.get_weights()[0].transpose(3, 2, 0, 1).copy()

    def set(self, weight: np.ndarray, bias: np.ndarray, after: np.ndarray) -> None:
        self.net.layers[1].set_weights([weight.transpose(2, 3, 1, 0), bias])
        self.net.layers[2].set_weights([after.transpose(2, 3, 1, 0), self.net.layers[2].get_weights()[1]])

    def responses(self, x: np.ndarray) -> np.ndarray:
        import keras

        hidden = keras.Model(self.net.inputs, self.net.layers[0].output).predict(x, verbose=0)
        kernel, bias = self.net.layers[1].get_weights()
        return np.asarray(keras.ops.conv(hidden, kernel, padding="same")) + bias


def _torch_convolutions(kit: Kit) -> tuple[Any, _TorchAccess]:
    import torch
    from torch import nn

    torch.manual_seed(kit.seed)
    w = kit.width
    net = nn.Sequential(
        nn.Conv2d(1, w, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(w, w, 3, padding=1), nn.ReLU(),
        nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(2 * w, 10),
    )  # fmt: skip
    return _trained(kit, net, kit.epochs), _TorchAccess(net)


def _trained(kit: Kit, net: Any, epochs: int) -> Any:
    import torch
    from torch.nn.functional import cross_entropy

    key = _key(kit, type(net).__name__)
    if key in _TRAINED:
        net.load_state_dict(_TRAINED[key])
        return net.eval()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    x, y = torch.from_numpy(kit.x), torch.from_numpy(kit.labels).long()
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
    _TRAINED[key] = {name: value.clone() for name, value in net.state_dict().items()}
    return net.eval()


def _key(kit: Kit, name: str) -> tuple[object, ...]:
    return name, kit.framework, kit.seed, kit.width, kit.epochs, kit.severity, kit.labels[:50].tobytes()


def _keras_convolutions(kit: Kit) -> tuple[Any, _KerasAccess]:
    import keras
    from keras import layers

    keras.utils.set_random_seed(kit.seed)
    w = kit.width
    net = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(w, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(w, 3, padding="same", activation="relu"),
            layers.Conv2D(2 * w, 3, strides=2, padding="same", activation="relu"),
            layers.AveragePooling2D(7),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    key = _key(kit, "convolutions")
    if key in _TRAINED:
        net.set_weights(_TRAINED[key])
    else:
        net.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        net.fit(kit.x, kit.labels, batch_size=32, epochs=kit.epochs, verbose=0)
        _TRAINED[key] = net.get_weights()
    return net, _KerasAccess(net)


def attention_of(kit: Kit) -> Any:
    """Return a PyTorch network with attention of near-equal weights over 196 tokens, each a patch of 2x2 pixels."""
    import torch
    from torch import nn

    torch.manual_seed(kit.seed)
    width = kit.width

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, width, 2, stride=2)
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
            self.head = nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            weights = torch.softmax(self.q(tokens) @ self.k(tokens).transpose(1, 2) * (0.5 * kit.severity), -1)
            return self.head((weights @ self.v(tokens)).mean(1))

    return _trained(kit, Attention(), 2 * kit.epochs)


def residual_of(kit: Kit, outlier: float) -> Any:
    """Return a PyTorch transformer of two blocks whose residual stream has two channels that are ``outlier`` times as large.

    The next LayerNorm's weights of these channels are as much smaller.
    """
    import torch
    from torch import nn

    torch.manual_seed(kit.seed)
    width = 2 * kit.width

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(torch.relu(self.up(self.norm(x))))

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, width, 7, stride=7)
            self.blocks = nn.Sequential(Block(), Block())
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
            return self.head(self.norm(tokens).mean(1))

    net = _trained(kit, Residual(), 2 * kit.epochs)
    with torch.no_grad():
        down = net.blocks[0].down
        down.bias[:2] += outlier
        for norm in (net.blocks[1].norm, net.norm):
            norm.weight[:2] /= outlier
    return net
