"""A prepared model under Hugging Face's Trainer, on the embedded digits."""

import torch
import torch.nn.functional as F
from transformers import Trainer, TrainingArguments

import qat
from qat.runs import datasets as load
from qat.runs.zoo_torch import mobilenet_tiny


class Task(torch.nn.Module):
    """The module that Trainer calls: keyword arguments in, a dictionary with the loss out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image, labels):
        logits = self.model(image)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


torch.manual_seed(0)
data = load.digits()
train = list(data.batches("train", 64, "NCHW", shuffle=0))
float_model = mobilenet_tiny()
qat.finetune(float_model, train, epochs=4, learning_rate=0.1, gradient_clip=None)
model = qat.calibrate(qat.prepare(float_model, train[0][0]), [x for x, _ in train])

samples = [
    {"image": torch.from_numpy(x), "labels": int(y)} for images, labels in train for x, y in zip(images, labels, strict=True)
]
arguments = TrainingArguments(
    "digits", num_train_epochs=1, per_device_train_batch_size=64, learning_rate=1e-4, max_grad_norm=1.0,
    report_to=[], save_strategy="no", disable_tqdm=True,
)  # fmt: skip
Trainer(Task(model), arguments, train_dataset=samples).train()

artifact = qat.export(model.cpu().eval(), "digits.onnx", verify=data.batches("test", 100, "NCHW"), overwrite=True)
print(f"{artifact.path}: {100 * artifact.parity.exact:.2f} % of outputs exactly equal")
