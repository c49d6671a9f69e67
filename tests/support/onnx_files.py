"""Small ``.onnx`` files of one operator, and what ONNX Runtime makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from qat.sources.onnx.importing import to_module
from qat.sources.onnx.reading import read
from qat.sources.onnx.table import OPERATORS

_IR = {
    7: 3,
    8: 3,
    9: 4,
    10: 5,
    11: 6,
    12: 7,
    13: 7,
    14: 7,
    15: 8,
    16: 8,
    17: 8,
    18: 8,
    19: 9,
    20: 9,
    21: 10,
    22: 10,
    23: 11,
    24: 11,
}


def model_of(nodes, inputs, constants, outputs, opset=17, shapes=None, domains=(), **more):
    """Return a model; ``inputs`` maps a name to an array, ``shapes`` to the shape that the file declares where it is another."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    declared = {name: (shapes or {}).get(name, array.shape) for name, array in inputs.items()}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, kinds[name], declared[name]) for name in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        **more,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR[opset])


def one_operator(kind, inputs, opset=17, outputs=(np.float32,), domain="", shapes=None, **attributes):
    """Return a model of one operator. An input is ``("x", array)``, a constant an array, one that is left out None."""
    names, given, constants = [], {}, {}
    for index, value in enumerate(inputs):
        if value is None:
            names.append("")
        elif isinstance(value, tuple):
            names.append(value[0])
            given[value[0]] = value[1]
        else:
            names.append(f"c{index}")
            constants[f"c{index}"] = value
    results = {f"y{i}": helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for i, dtype in enumerate(outputs) if dtype is not None}
    names_out = ["" if dtype is None else f"y{i}" for i, dtype in enumerate(outputs)]
    node = helper.make_node(kind, names, names_out, name="place", domain=domain, **attributes)
    return model_of([node], given, constants, results, opset, shapes, [domain] if domain else ()), given


def runtime_outputs(model, inputs):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options).run(None, dict(inputs))


def module_of(model, inputs, folder, any_batch=False):
    """Return the module of a model, without the proof, which takes a process."""
    path = Path(folder) / "model.onnx"
    onnx.save(model, path)
    graph, origin = read(path, OPERATORS)
    return to_module(graph, origin, [array.shape for array in inputs.values()], any_batch)


def module_outputs(module, inputs):
    with torch.no_grad():
        found = module(*map(torch.from_numpy, inputs.values()))
    return [t.numpy() for t in ((found,) if isinstance(found, torch.Tensor) else found)]


def check(model, inputs, folder, tolerance=2e-5):
    """Hold the module of a model against ONNX Runtime."""
    expected = runtime_outputs(model, inputs)
    found = module_outputs(module_of(model, inputs, folder), inputs)
    assert len(found) == len(expected)
    for mine, its in zip(found, expected, strict=True):
        assert mine.shape == its.shape
        np.testing.assert_allclose(mine, its, rtol=tolerance, atol=tolerance)


__all__ = ["TensorProto", "check", "model_of", "module_of", "module_outputs", "one_operator", "runtime_outputs"]
