"""Transposes of more axes than a kernel takes, written in transposes of fewer."""

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat.graph.decompose.transposes import steps, transposes_of_few_axes
from qat.graph.graph import Graph, Op, TensorSpec

X = np.random.default_rng(0).normal(size=(4, 4, 8, 8, 3)).astype("float32")
PATCHES = (2, 2, 2, 4, 2, 4, 3)  # frames, rows and columns of a clip, each in patches


@settings(deadline=None)
@given(st.permutations(range(1, 9)), st.sampled_from((5, 6)))
def test_steps_make_the_transpose(rest, most):
    axes = (0, *rest)
    x = np.arange(3 * 2**8).reshape(3, *(2,) * 8)
    y = x
    for groups, order in steps(axes, most):
        assert len(groups) <= most
        assert (groups[0], order[0]) == ((0,), 0)
        y = y.reshape(3, *(2 ** len(group) for group in groups[1:])).transpose(order)
    np.testing.assert_array_equal(y.reshape(x.shape), x.transpose(axes))


def test_a_transpose_of_free_sizes_stays():
    specs = {name: TensorSpec(name, (None, *(None,) * 7)) for name in "xy"}
    op = Op("y", "transpose", ("x",), ("y",), {}, {"axes": (0, 2, 4, 6, 1, 3, 5, 7)}, "scope")
    graph = Graph("net", "NCHW", ("x",), ("y",), (op,), specs)
    assert transposes_of_few_axes(graph, 6) == graph


#: Of patches, and of an attention's parts, which come before the samples.
ORDERS = ((0, 1, 3, 5, 2, 4, 6, 7), (2, 0, 1, 3, 5, 4, 6, 7))


class Clips(torch.nn.Module):
    """Patches of clips as tokens."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.dense = torch.nn.Linear(48, 5)

    def forward(self, x):
        x = x.reshape(-1, *PATCHES).permute(self.order)
        return self.dense(x.reshape(-1, 16, 48) if self.order[0] == 0 else x.reshape(2, -1, 8, 48)[1])


def _of_keras(order):
    entry = keras.Input(X.shape[1:])
    x = keras.ops.transpose(keras.layers.Reshape(PATCHES)(entry), order)
    x = keras.ops.reshape(x, (-1, 16, 48)) if order[0] == 0 else keras.ops.reshape(x, (2, -1, 8, 48))[1]
    return keras.Model(entry, keras.layers.Dense(5)(x))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("make", "data"), [(Clips, torch.from_numpy(X)), (_of_keras, X)])
def test_patches_of_clips_reach_a_tflite(make, data, order, tmp_path):
    prepared = qat.prepare(make(order), (data,) if make is Clips else data, target="litert")
    assert order[0] or not prepared.plan.floats()
    qat.calibrate(prepared, [data])
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[data]).parity.exact == 1.0
