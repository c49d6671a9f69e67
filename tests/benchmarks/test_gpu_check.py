"""The check of a GPU: what it reports, run on the CPU's device, and that it claims nothing where there is no GPU."""

import json
import subprocess
import sys

import gpu_check
import pytest
import torch


@pytest.mark.slow
def test_without_a_gpu_nothing_is_claimed():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, gpu_check.__file__], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"device": None, "note": "this PyTorch sees no GPU: nothing was measured"}


def test_parity_and_rows(monkeypatch):
    def small(name, x):
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)).eval()

    monkeypatch.setattr(gpu_check, "model_of", small)
    monkeypatch.setattr(gpu_check, "WARM_UP", 1)
    monkeypatch.setattr(gpu_check, "RUNS", 2)
    found = gpu_check.check(["small"], batch=8, size=8, minutes=1.0, device=torch.device("cpu"))
    assert found["parity"]["small"]["exact"] == 1.0
    rows = found["steps"]["small"]
    assert list(rows) == [*gpu_check.KINDS, *(f"{kind}, compiled" for kind in gpu_check.KINDS)]
    assert all("left_out" in row for title, row in rows.items() if "compiled" in title)
    eager = [rows[kind]["ratio"] for kind in gpu_check.KINDS]
    assert min(eager[1:]) == 1.0


def test_a_failure_is_a_row(monkeypatch):
    def broken(name, x):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu_check, "model_of", broken)
    found = gpu_check.rows("small", *gpu_check.batch_of(8, 2, torch.device("cpu")), False, lambda: 60.0)
    assert {row["error"] for row in found.values()} == {"RuntimeError: no such kernel"}
