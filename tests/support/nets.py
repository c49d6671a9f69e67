"""Tiny nets with dropout and their data, for both frameworks: what a resumed run must repeat bit for bit."""

import numpy as np

import qat
from qat.runs import datasets as load
from qat.runs.dataset import Dataset


def digits(count=320):
    whole = load.digits()
    kept = whole.train_x[:count], whole.train_y[:count], whole.test_x[:100], whole.test_y[:100]
    return Dataset("digits", *kept, whole.scale, whole.mean, whole.std)


def torch_net(seed=0):
    import torch
    from torch import nn

    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)
    )


def keras_net(seed=0):
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)), layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(8, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(10),
        ]
    )  # fmt: skip


def layout(framework):
    return "NCHW" if framework == "torch" else "NHWC"


def net(framework, seed=0):
    return torch_net(seed) if framework == "torch" else keras_net(seed)


def prepared(framework, seed=0, recipe="static_wi8_ai8", target=None):
    data = digits()
    target = target or (None if recipe == "static_wi8_ai8" else "simulated")
    model = net(framework, seed)
    example = next(iter(data.batches("test", 4, layout(framework))))[0]
    return qat.calibrate(
        qat.prepare(model, example, recipe, target), [x for x, _ in data.batches("train", 64, layout(framework))]
    )


class Interrupted:
    """Batches, counted over all epochs; ``interrupt()`` is called before the one of number ``at`` is handed out."""

    def __init__(self, batches, at, interrupt):
        self.batches, self.set_epoch, self.at, self.interrupt = batches, batches.set_epoch, at, interrupt
        self.number = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            if self.number == self.at:
                self.interrupt()
            self.number += 1
            yield batch


def raises(error):
    """Return a function that raises this error."""

    def raise_error():
        raise error

    return raise_error


def train(framework, folder, model=None, interrupt=None, **options):
    """Train for two epochs of nine batches on flipped and shuffled digits; ``interrupt`` is a step and what happens before it."""
    data = digits()
    train_data = data.batches("train", 32, layout(framework), shuffle=3, flip=True)
    if interrupt is not None:
        train_data = Interrupted(train_data, *interrupt)
    eval_data = data.batches("validation", 32, layout(framework))
    chosen = {"epochs": 2, "learning_rate": 0.02, "observe_fraction": 0.6, "checkpoint_every": 2, "progress": False} | options
    model = prepared(framework) if model is None else model
    return model, qat.finetune(model, train_data, eval_data, checkpoint_dir=folder, **chosen)


def weights(model):
    values = model.state_dict().values() if hasattr(model, "state_dict") else model.weights
    return [np.array(v) for v in values]


def difference(a, b):
    """Return the largest difference between two models' weights and states."""
    return max(np.abs(x.astype(np.float64) - y).max() for x, y in zip(weights(a), weights(b), strict=True))


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(weights(a), weights(b), strict=True))
