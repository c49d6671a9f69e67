"""Models of a few kinds of task, and their losses, as a user of Keras writes them."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def convolution(x, n):
    return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(n, 3, padding="same")(x)))


def rows(x, n):
    return layers.Reshape((4, n))(layers.Conv2D(n, 1)(x))


def unet():
    image = keras.Input((16, 16, 1), name="image")
    a = convolution(image, 8)
    b = convolution(layers.MaxPooling2D()(a), 16)
    x = convolution(layers.Concatenate()([a, layers.UpSampling2D()(b)]), 8)
    return keras.Model(image, layers.Conv2D(3, 1)(x))


def regressor():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(2),
        ]
    )


def embedder():
    image = keras.Input((8, 8, 1))
    x = layers.Flatten()(layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(image))
    return keras.Model(image, layers.UnitNormalization()(layers.Dense(16)(x)))


def triplet(outputs, labels):
    near = tf.matmul(outputs, outputs, transpose_b=True)
    same = labels[:, None] == labels[None]
    worst = tf.reduce_min(tf.where(same, near, 2.0), 1)
    best = tf.reduce_max(tf.where(same, -2.0, near), 1)
    return tf.reduce_mean(tf.nn.relu(best - worst + 0.3))


def detector():
    image = keras.Input((16, 16, 1), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.MaxPooling2D()(layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(x))
    return keras.Model(image, {"boxes": rows(x, 4), "scores": layers.Activation("sigmoid")(rows(x, 2))})


def detection_loss(outputs, labels):
    boxes, scores = outputs["boxes"], outputs["scores"]
    there = labels[..., 4] >= 0
    cell = tf.cast((labels[..., 1] // 8) * 2 + labels[..., 0] // 8, tf.int32)
    at = tf.where(there)
    chosen = tf.gather_nd(cell, at)
    kinds = tf.cast(tf.gather_nd(labels[..., 4], at), tf.int32)
    rows = tf.cast(at[:, 0], tf.int32)
    wanted = tf.minimum(tf.scatter_nd(tf.stack([rows, chosen, kinds], 1), tf.ones(len(rows)), tf.shape(scores)), 1.0)
    off = tf.reduce_mean(tf.abs(tf.gather_nd(boxes, tf.stack([rows, chosen], 1)) - tf.gather_nd(labels[..., :4], at))) / 8
    return tf.reduce_mean(keras.losses.binary_crossentropy(wanted, scores)) + off


def two_heads():
    left, right = keras.Input((64,), name="left"), keras.Input((64,), name="right")
    h = layers.ReLU()(layers.Add()([layers.Dense(16)(left), layers.Dense(16)(right)]))
    return keras.Model({"left": left, "right": right}, {"kind": layers.Dense(10)(h), "size": layers.Dense(1)(h)})


def two_losses(outputs, labels):
    classes = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels["kind"], tf.int32), outputs["kind"])
    return tf.reduce_mean(classes) + tf.reduce_mean((outputs["size"][:, 0] - labels["size"]) ** 2)


def halves(n=160):
    """Batches of two digits: the class of the first, and how much ink both have; by name."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = (found.data[: 2 * n] / 16).astype(np.float32), found.target[: 2 * n]
    cut = 2 * n // 3
    columns = ({"left": x[:n], "right": x[n:]}, {"kind": y[:n], "size": (x[:n].sum(1) + x[n:].sum(1)) / 40})
    parts = (tf.data.Dataset.from_tensor_slices(columns).take(cut), tf.data.Dataset.from_tensor_slices(columns).skip(cut))
    return tuple(part.batch(16) for part in parts)
