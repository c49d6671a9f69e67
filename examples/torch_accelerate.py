"""A prepared model in a loop of accelerate: ``accelerate launch examples/torch_accelerate.py`` for many processes."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import qat
from qat.runs import datasets as load
from qat.runs.zoo_torch import mobilenet_tiny

torch.manual_seed(0)
data = load.digits()
train = list(data.batches("train", 64, "NCHW", shuffle=0))
float_model = mobilenet_tiny()
qat.finetune(float_model, train, epochs=4, learning_rate=0.1, gradient_clip=None)
model = qat.calibrate(qat.prepare(float_model, train[0][0]), [x for x, _ in train])

images, labels = (torch.cat([torch.from_numpy(batch[i]) for batch in train]) for i in (0, 1))
accelerator = Accelerator()
trained, optimizer, loader = accelerator.prepare(
    model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), DataLoader(TensorDataset(images, labels), 64, shuffle=True)
)
trained.train()
for x, y in loader:
    optimizer.zero_grad()
    accelerator.backward(F.cross_entropy(trained(x), y))
    accelerator.clip_grad_norm_(trained.parameters(), 1.0)
    optimizer.step()

if accelerator.is_main_process:
    model = accelerator.unwrap_model(trained).cpu().eval()
    artifact = qat.export(model, "digits.onnx", verify=data.batches("test", 100, "NCHW"), overwrite=True)
    print(f"{artifact.path}: {artifact.parity.line()}")
