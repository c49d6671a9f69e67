"""What PyTorch finds out anew at each call is found out once: its composite operators, and its library of ONNX forms."""

from __future__ import annotations

import contextlib

import numpy as np
import torch

import qat
from qat.adapters.torch import onnx_library as library
from qat.adapters.torch.capture import decompose
from qat.exporters.onnx import from_torch


def test_composite_operators_are_listed_once_for_a_decomposition(monkeypatch):
    listings = []
    monkeypatch.setattr(decompose, "_list_composites", lambda: listings.append("listed"))
    exported = torch.export.export(torch.nn.Softplus(), (torch.zeros(2, 4),))
    taken_apart = decompose.in_core_operators(exported)
    assert listings == ["listed"]
    assert [str(n.target) for n in taken_apart.graph.nodes if n.op == "call_function"] == [
        str(n.target) for n in exported.run_decompositions().graph.nodes if n.op == "call_function"
    ]


def test_the_library_of_onnx_forms_is_read_once_for_all_float_blocks(tmp_path, monkeypatch):
    block = [torch.nn.Linear(6, 6), torch.nn.LogSoftmax(-1)]
    prepared = qat.prepare(torch.nn.Sequential(*block, *block), example_inputs=torch.zeros(2, 6))
    qat.calibrate(prepared, [np.zeros((2, 6), np.float32)])
    with monkeypatch.context() as patch:
        patch.setattr(from_torch, "library_read_once", contextlib.nullcontext)
        qat.export(prepared, tmp_path / "read_anew.onnx")
    library.onnx_library()
    readings = library._library.cache_info().misses
    qat.export(prepared, tmp_path / "read_once.onnx")
    assert library._library.cache_info().misses == readings
    assert (tmp_path / "read_once.onnx").read_bytes() == (tmp_path / "read_anew.onnx").read_bytes()


def test_a_registered_form_stays_out_of_other_copies_of_the_library():
    mine = library.onnx_library()
    mine.register_op(torch.ops.aten.relu.default, lambda x: x, is_complex=False)
    others = library.onnx_library().get_decomps(torch.ops.aten.relu.default)
    assert len(mine.get_decomps(torch.ops.aten.relu.default)) == len(others) + 1


def test_torch_onnx_is_left_as_it_was():
    reading = vars(library.ONNXRegistry)["from_torchlib"]
    with library.library_read_once():
        assert vars(library.ONNXRegistry)["from_torchlib"] is not reading
    assert vars(library.ONNXRegistry)["from_torchlib"] is reading
