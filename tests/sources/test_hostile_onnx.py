"""Damaged ``.onnx`` files: each ends in a sentence, or in a module."""

import contextlib
import functools

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import qat
from qat.errors import DataError
from qat.sources.onnx.importing import to_module
from qat.sources.onnx.reading import read
from qat.sources.onnx.table import OPERATORS
from qat.system.silence import quiet
from support.onnx_files import model_of


@functools.cache
def _file():
    """Return the bytes of a file with attributes, constants, sizes and a branch, all small: a flipped byte tells."""
    numbers = np.random.default_rng(0)
    then = helper.make_graph([helper.make_node("Relu", ["r"], ["t"])], "then", [], [_value("t")])
    other = helper.make_graph([helper.make_node("Identity", ["r"], ["e"])], "else", [], [_value("e")])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["m"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "first"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["m", "to"], ["r"]),
        helper.make_node("Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["i"], then_branch=then, else_branch=other),
        helper.make_node("Gemm", ["i", "v", "b"], ["y"], transB=1),
    ]
    constants = {
        "w": numbers.normal(size=(2, 1, 3, 3)).astype(np.float32), "v": numbers.normal(size=(3, 8)).astype(np.float32),
        "b": np.zeros(3, np.float32), "zero": np.array(0), "first": np.array([0]), "rest": np.array([-1]),
    }  # fmt: skip
    x = {"x": np.zeros((2, 1, 8, 8), np.float32)}
    return model_of(nodes, x, constants, {"y": TensorProto.FLOAT}, 13, shapes={"x": ["n", 1, 8, 8]}).SerializeToString()


def _value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _module(data, folder):
    path = folder / "net.onnx"
    path.write_bytes(data)
    with quiet():
        graph, origin = read(path, OPERATORS)
        return to_module(graph, origin, [(2, 1, 8, 8)] * len(origin.inputs), any_batch=True)


def test_the_file_itself_is_read(tmp_path):
    assert len(list(_module(_file(), tmp_path).parameters())) == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(_file()) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example([(_file().index(b"Conv"), 0xFF)])
@example([(_file().index(b"then_branch"), 0)])
def test_flipped_bytes(tmp_path, flips):
    data = bytearray(_file())
    for place, value in flips:
        data[place] = value
    with contextlib.suppress(qat.QatError):
        _module(bytes(data), tmp_path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(_file()) - 1))
def test_truncated_files(tmp_path, length):
    with pytest.raises(DataError):
        _module(_file()[:length], tmp_path)
