"""One of several processes that train together: ``python -m support.rank RANK SIZE FOLDER [own]``.

``own`` is a loop that the user wrote.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

import qat
from qat.adapters.torch import set_range_tracking
from support.nets import digits, prepared

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
model = trained = prepared("torch")
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
batches = [(x[rank::size], y[rank::size]) for x, y in digits().batches("train", 32, "NCHW", shuffle=0)]
if sys.argv[4:] == ["own"]:
    trained = DistributedDataParallel(model, broadcast_buffers=False) if size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    model.train()
    set_range_tracking(model, True)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(trained(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
else:
    evaluated = digits().batches("validation", 32, "NCHW")
    options = {"epochs": 2, "observe_fraction": 0.5, "learning_rate": 0.02, "accumulate": 2, "progress": False}
    history = qat.finetune(model, batches, evaluated, checkpoint_dir=folder / "checkpoints", **options)
    torch.save(torch.tensor([e.loss for e in history.epochs]), folder / f"losses{rank}.pt")
save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / f"rank{rank}.safetensors")
if size > 1:
    # Both end together, and the reducer before its process group: Gloo's threads abort a process that exits with them at work.
    dist.barrier()
    trained = None
    dist.destroy_process_group()
