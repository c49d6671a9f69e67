"""Settings of every test: one thread, no notices of TensorFlow's, no cache of the user's, the same random numbers."""

import gc
import os
import random
import sys

import pytest

# Read where the frameworks are imported, here and in the processes that tests start. Tests run beside each other, so each has
# one thread.
for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# pytest imports readline, which exports the terminal's size to the processes that pytest starts: pages would be broken at 80.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)


def pytest_collection() -> None:
    """Let the collector of garbage rest while tests are collected: what frameworks make as they are imported stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep the collector of garbage from walking the frameworks over and over, half a million objects that stay.

    It took a sixth of the tests' time.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _own_seed():
    """Weights that a test draws do not depend on the tests before it; frameworks that no test has imported stay so."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
