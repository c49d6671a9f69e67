"""Two processes with half a batch each train what one trains with the whole batch."""

import pytest
import torch
from safetensors.torch import load_file

from support.processes import output_of, start


def train(folder, size, *loop):
    folder.mkdir()
    for process in [start("rank", rank, size, folder, *loop) for rank in range(size)]:
        output_of(process)
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(size)]


@pytest.mark.slow
@pytest.mark.parametrize("loop", [pytest.param("finetune", marks=pytest.mark.ci), "own"])
def test_two_processes_are_one_with_the_whole_batch(loop, tmp_path):
    first, second = train(tmp_path / "two", 2, *(["own"] if loop == "own" else []))
    (alone,) = train(tmp_path / "one", 1, *(["own"] if loop == "own" else []))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], alone[name], rtol=1e-3, atol=1e-4)
    if loop == "finetune":
        losses = [torch.load(tmp_path / run / "losses0.pt") for run in ("two", "one")]
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
        assert (tmp_path / "two" / "checkpoints" / "training.safetensors").is_file()
