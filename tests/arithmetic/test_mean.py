"""Means whose exact value is near a half: LiteRT's delegate and the nodes of both frameworks round them as the reference does."""

import numpy as np
import pytest

from qat.arithmetic import mlas, xnnpack
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.exporters.tflite import write
from qat.program.program import Instruction, Program, Value
from qat.runtimes.litert import LiteRTSession


def near_halves(seed):
    """Return encodings and an image whose channels' means are as near to a half of the output's step as any."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([2, 3, 4, 5, 7, 8]))
    count = size * size
    zx, zy = (int(rng.integers(-128, -100)) for _ in range(2))
    sx = f32(rng.uniform(0.005, 0.05))
    sy = f32(sx * rng.uniform(0.1, 0.6))
    sums = np.arange(count * 200)
    values = sums * (float(sx) / float(sy) / count)
    nearest = np.argsort(np.abs(values % 1 - 0.5) + (values > 200))[:32]
    image = np.full((1, count, 32), sums[nearest] // count)
    image += np.arange(count)[None, :, None] < sums[nearest] % count
    x, y = (Encoding(np.asarray(s), z, -128, 127) for s, z in ((sx, zx), (sy, zy)))
    return x, y, image.reshape(1, size, size, 32)


def test_the_delegate_computes_the_reference():
    differs = 0
    for seed in range(150):
        x, y, image = near_halves(seed)
        image = np.minimum(image, x.hi)
        shape = image.shape[1:]
        values = {"x": Value("x", (None, *shape)), "y": Value("y", (None, 32))}
        values |= {"xq": Value("xq", (None, *shape), x), "yq": Value("yq", (None, 32), y)}
        steps = (
            Instruction("q", "quantize", ("x",), ("xq",)),
            Instruction("m", "mean", ("xq",), ("yq",), {"axes": (1, 2), "keepdims": False}),
            Instruction("d", "dequantize", ("yq",), ("y",)),
        )
        program = Program("p", "NHWC", "xnnpack", "litert", "static_wi8_ai8", ("x",), ("y",), values, steps)
        (found,) = LiteRTSession(write(program)).run_named(image.astype(f32) * x.scale).values()
        expected = xnnpack.mean(image, (1, 2), x, y)
        np.testing.assert_array_equal(found.astype(int) - y.zero_point, expected)
        differs += int((mlas.mean(image, (1, 2), x, y) != expected).sum())
    assert differs > 0  # the zero points matter, or this tests nothing


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_nodes_compute_the_reference(framework):
    for seed in range(40):
        x, y, image = near_halves(seed)
        expected = xnnpack.mean(image, (1, 2), x, y)
        np.testing.assert_array_equal(NODES[framework](x, y, image.astype(f32)), expected)


def _group(name, encoding):
    from qat.planning.plan import Group
    from qat.planning.recipe import QuantSpec

    return Group(name, (name,), QuantSpec(bits=8), encoding.qmin, encoding.qmax, False)


def _planned(axes):
    from qat.graph.graph import Op
    from qat.planning.plan import PlannedOp

    return PlannedOp(Op("m", "mean", ("x",), ("y",), {}, {"axes": axes, "keepdims": False}), True, mode="static")


def _keras(x, y, image):
    from qat.adapters.keras.nodes.activation_grid import Grid
    from qat.adapters.keras.nodes.averages import Mean

    grids = tuple(Grid(_group(name, e)) for name, e in (("x", x), ("y", y)))
    for grid, e in zip(grids, (x, y), strict=True):
        grid.state.assign(np.array([e.qmin, e.qmax, e.scale, e.zero_point, e.lo, e.hi, e.qmax - e.qmin, 0], f32))
    return np.asarray(Mean(_planned((1, 2)), grids, "xnnpack", None).integer([image], {}, False))


def _torch(x, y, image):
    import torch

    from qat.adapters.torch.nodes.activation_grid import Grid
    from qat.adapters.torch.nodes.averages import Mean

    grids = [Grid(_group(name, e)) for name, e in (("x", x), ("y", y))]
    for grid, e in zip(grids, (x, y), strict=True):
        grid.scale, grid.zero_point = torch.tensor(float(e.scale)), torch.tensor(float(e.zero_point))
        grid.scale_value, grid.lo, grid.hi = float(e.scale), float(e.lo), float(e.hi)
    node = Mean(_planned((2, 3)), tuple(grids), "xnnpack").eval()
    return node.integer(torch.from_numpy(image.transpose(0, 3, 1, 2).copy())).numpy()


NODES = {"keras": _keras, "torch": _torch}
