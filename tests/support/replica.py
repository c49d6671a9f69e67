"""One of several that train together: ``python -m support.replica alone|mirrored|worker FOLDER keras|tf_keras [INDEX]``.

``mirrored`` is one process with two logical devices; ``worker`` is one of two processes, which find each other by ``TF_CONFIG``.
"""

import contextlib
import importlib
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import qat
from support.nets import digits

how, folder, framework, index = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int((*sys.argv[4:], 0)[0])
scope = contextlib.nullcontext()
if how == "mirrored":
    (device,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
if how == "worker":
    scope = tf.distribute.MultiWorkerMirroredStrategy().scope()

keras = importlib.import_module(framework)
data = digits()
with scope:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    float_model = keras.Sequential(
        [
            layers.Input((8, 8, 1)), layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(8, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(10),
        ]
    )  # fmt: skip
    model = qat.prepare(float_model, engine="grid" if framework == "keras" else "tfmot")
qat.calibrate(model, [x for x, _ in data.batches("train", 64)])
start = [np.asarray(v) for v in model.weights]
batches, evaluated = list(data.batches("train", 32, shuffle=0)), data.batches("validation", 15)
options = {"observe_fraction": 0.5, "learning_rate": 0.02, "gradient_clip": 0.5, "progress": False}
x, y = batches[0]
if how == "worker":
    batches = [(x[index::2], y[index::2]) for x, y in batches]
history = qat.finetune(model, batches, evaluated, epochs=2, accumulate=2, checkpoint_dir=folder / "checkpoints", **options)
end = [np.asarray(v) for v in model.weights]
assert sum(np.any(a != b) for a, b in zip(start, end, strict=True)) > len(model.trainable_weights), "no range has moved"
figures = {"losses": [e.loss for e in history.epochs], "top1": [e.metrics["top1"] for e in history.epochs]}
figures |= {f"w{i:03d}": v for i, v in enumerate(end)}
if how != "worker":  # batches that cannot be halved
    qat.finetune(model, [(x[:1], y[:1]), (x[:31], y[:31])], weight_decay=1e-3, **options)
    figures |= {f"odd{i:03d}": np.asarray(v) for i, v in enumerate(model.weights)}
np.savez(folder / f"{index}.npz", **figures)
if how == "mirrored" and framework == "keras":
    copies = [{np.asarray(v).tobytes() for v in variable.value.values} for variable in model.weights]
    assert all(len(c) == 1 for c in copies), "the replicas hold other values"
