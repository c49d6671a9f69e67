"""Small nets of tasks that are not classification, in either framework, with the weights that the frameworks draw."""

import keras
import torch
from torch import nn


def segmenter(framework):
    if framework == "torch":
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(4, 1)(x))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.classes, self.value = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x, y):
        h = torch.relu(self.a(x) + self.b(y))
        return self.classes(h), self.value(h)


def two_heads(framework):
    if framework == "torch":
        return TwoHeads()
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    h = keras.layers.ReLU()(keras.layers.Dense(8)(x) + keras.layers.Dense(8)(y))
    return keras.Model([x, y], [keras.layers.Dense(3)(h), keras.layers.Dense(1)(h)])
