"""A prepared model under ``model.fit`` with Keras' own callbacks, on the embedded digits."""

import keras
import numpy as np

import qat
from qat.runs import datasets as load
from qat.runs.zoo_keras import mobilenet_tiny

keras.utils.set_random_seed(0)
data = load.digits()
train = list(data.batches("train", 64, shuffle=0))
x, y = (np.concatenate(parts) for parts in zip(*train, strict=True))
held_x, held_y = (np.concatenate(parts) for parts in zip(*data.batches("validation", 64), strict=True))
float_model = mobilenet_tiny()
qat.finetune(float_model, train, epochs=4, learning_rate=0.1, gradient_clip=None)

model = qat.calibrate(qat.prepare(float_model), [batch for batch, _ in train])
model.compile(
    keras.optimizers.SGD(0.01, momentum=0.9, global_clipnorm=1.0),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
callbacks = [keras.callbacks.EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)]
model.fit(x, y, 64, epochs=3, validation_data=(held_x, held_y), callbacks=callbacks, verbose=0)

artifact = qat.export(model, "digits.tflite", verify=data.batches("test", 100), overwrite=True)
print(f"{artifact.path}: {artifact.parity.line()}")
