"""Runs that are killed at random moments until one ends: ``python -m support.job FRAMEWORK FOLDER KILLS SEED [IMAGES]``.

One that is killed KILLS times, in FOLDER/KILLS, and one that is not, in FOLDER/0. Each run is a process of its own, forked, which
is killed (SIGKILL) within a quarter of a second of its first step. It trains on arrays, or on a folder of images that workers
decode.
"""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import qat
from qat.runs.config import RunConfig
from qat.runs.data import RunData
from support.nets import digits, layout, prepared


class Slow:
    """Batches that take their time, so that the moments of the kills fall everywhere."""

    def __init__(self, batches):
        self.batches, self.set_epoch, self.start_at = batches, batches.set_epoch, batches.start_at

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            time.sleep(0.1)
            yield batch


def training_data(framework, images):
    if images is None:
        return digits().batches("train", 16, layout(framework), shuffle=0, flip=True)
    data = {"source": "folder", "path": images, "size": 8, "color": "gray", "flip": True, "batch_size": 16, "workers": 2}
    config = {"name": "killed", "framework": framework, "model": {"factory": "a:b"}, "data": data}
    return RunData(RunConfig.model_validate(config), Path()).training(0)


def train(framework, folder, ready, images):
    model = prepared(framework)
    data = training_data(framework, images)
    os.write(ready, b".")
    options = {"epochs": 4, "observe_fraction": 0.5, "checkpoint_every": 1, "learning_rate": 0.02, "progress": False}
    validation = digits().batches("validation", 32, layout(framework))
    qat.finetune(model, Slow(data), validation, checkpoint_dir=folder, resume=True, **options)
    if framework == "keras":
        np.savez(folder / "weights.npz", *[np.array(v) for v in model.weights])


def main(framework, folder, kills, seed, images=None):
    if framework == "torch":  # imported once, before the forks; TensorFlow's threads would not live through one
        importlib.import_module("qat.trainers.torch")
    for times in (kills, 0):
        print(end_of_run(framework, folder / str(times), times, np.random.default_rng(seed), images))


def end_of_run(framework, folder, kills, random, images):
    """Kill and start a run until one ends. Returns how often it was killed."""
    killed = 0
    while True:
        listen, ready = os.pipe()
        child = os.fork()
        if child == 0:
            train(framework, folder, ready, images)
            os._exit(0)
        os.close(ready)
        assert os.read(listen, 1) == b"."
        os.close(listen)
        if killed < kills:
            time.sleep(random.uniform(0.02, 0.25))  # a step or two, so that no run ends before its last kill
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return killed
        assert status == -signal.SIGKILL, status
        killed += 1


main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
