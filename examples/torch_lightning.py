"""A prepared model in Lightning: an attribute of a LightningModule like any other, on the embedded digits."""

import lightning
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import qat
from qat.runs import datasets as load
from qat.runs.zoo_torch import mobilenet_tiny


class Training(lightning.LightningModule):
    """The module that Lightning trains."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)


lightning.seed_everything(0)
data = load.digits()
train = list(data.batches("train", 64, "NCHW", shuffle=0))
float_model = mobilenet_tiny()
qat.finetune(float_model, train, epochs=4, learning_rate=0.1, gradient_clip=None)
model = qat.calibrate(qat.prepare(float_model, train[0][0]), [x for x, _ in train])

images, labels = (torch.cat([torch.from_numpy(batch[i]) for batch in train]) for i in (0, 1))
trainer = lightning.Trainer(
    max_epochs=1, accelerator="auto", gradient_clip_val=1.0, logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(Training(model), DataLoader(TensorDataset(images, labels), 64, shuffle=True))

artifact = qat.export(model.cpu().eval(), "digits.onnx", verify=data.batches("test", 100, "NCHW"), overwrite=True)
print(f"{artifact.path}: {artifact.parity.line()}")
