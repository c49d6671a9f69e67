"""A prepared model in a plain PyTorch loop, on the embedded digits."""

import torch
import torch.nn.functional as F

import qat
from qat.runs import datasets as load
from qat.runs.zoo_torch import mobilenet_tiny

torch.manual_seed(0)
data = load.digits()
train = data.batches("train", 64, "NCHW", shuffle=0)
float_model = mobilenet_tiny()
qat.finetune(float_model, train, epochs=4, learning_rate=0.1, gradient_clip=None)

model = qat.calibrate(qat.prepare(float_model, next(iter(train))[0]), [x for x, _ in train])
optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
model.train()
qat.track_ranges(model)  # ranges follow the data for a while ...
for step, (x, y) in enumerate(train):
    if step == len(train) // 2:
        qat.freeze_ranges(model)  # ... and are frozen, so that the weights can settle on one grid
    optimizer.zero_grad()
    F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

artifact = qat.export(model.eval(), "digits.onnx", verify=data.batches("test", 100, "NCHW"), overwrite=True)
print(f"{artifact.path}: {artifact.parity.line()}")
