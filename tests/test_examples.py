"""Every script in examples/ runs, and what it trains equals what it ships."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {"torch_loop": "torch", "keras_fit": "keras", "torch_accelerate": "accelerate", "torch_lightning": "lightning",
         "torch_transformers": "transformers"}  # fmt: skip


def test_all_are_run():
    in_another_test = {"tensorrt_build"}  # tests/exporters/tensorrt
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDS) | in_another_test


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", NEEDS)
def test_example(name, tmp_path):
    pytest.importorskip(NEEDS[name])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True, text=True, cwd=tmp_path, timeout=280, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "100.00 % of outputs exactly equal" in done.stdout
