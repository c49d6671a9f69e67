"""Smooth pictures for the checks of calibration data."""

import numpy as np


def pictures(count, seed=0, size=8, channels=1):
    """Return smooth pictures ``[n, size, size, channels]`` in 0..1 of ten classes, brighter on the left, and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    x, y = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size))
    tone = np.array([0.9, 0.6, 0.3])[:channels] if channels == 3 else np.ones(channels)
    slopes = 0.25 + 0.03 * labels[:, None, None] + 0.1 * random.normal(size=(count, 1, 1))
    waves = np.sin(2 * np.pi * (y + random.random((count, 1, 1))))
    gray = 0.5 + slopes * (0.5 - x) + 0.15 * waves + 0.02 * random.normal(size=(count, size, size))
    return np.clip(gray[..., None] * tone, 0, 1).astype(np.float32), labels


def flipped(x):
    """Return pictures ``[n, height, width, channels]`` of which every other one is mirrored."""
    x = x.copy()
    x[::2] = x[::2, :, ::-1]
    return x
