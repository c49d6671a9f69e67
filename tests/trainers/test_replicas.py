"""Two replicas with half a batch each train what one trains with the whole batch: ``tf.distribute`` in Keras."""

import json
import socket

import numpy as np
import pytest

from support.processes import output_of
from support.processes import start as start_process


def start(how, folder, framework, index=0, **environment):
    folder.mkdir(exist_ok=True)
    return start_process("replica", how, folder, framework, index, **environment)


def result(process, path):
    output_of(process)
    return dict(np.load(path))


def workers(folder, framework):
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        two.bind(("localhost", 0))
        addresses = [f"localhost:{s.getsockname()[1]}" for s in (one, two)]
    task = lambda i: json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})  # noqa: E731
    return [start("worker", folder, framework, i, TF_CONFIG=task(i)) for i in range(2)]


# tfmot averages the replicas' extremes, where the whole batch has one minimum and one maximum.
@pytest.mark.slow
@pytest.mark.parametrize(("framework", "tolerance"), [("keras", 1e-5), ("tf_keras", 5e-3)])
def test_two_replicas_are_one_with_the_whole_batch(framework, tolerance, tmp_path):
    folders = {how: tmp_path / how for how in ("alone", "mirrored", "workers")}
    processes = [start(how, folders[how], framework) for how in ("alone", "mirrored")]
    pair = workers(folders["workers"], framework)
    alone, mirrored = (result(p, folders[how] / "0.npz") for p, how in zip(processes, ("alone", "mirrored"), strict=True))
    first, second = (result(p, folders["workers"] / f"{i}.npz") for i, p in enumerate(pair))
    assert set(alone) == set(mirrored) > set(first) == set(second)
    for name, value in alone.items():
        np.testing.assert_allclose(mirrored[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
        np.testing.assert_allclose(value, alone[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert (folders["workers"] / "checkpoints" / "training.safetensors").is_file()
