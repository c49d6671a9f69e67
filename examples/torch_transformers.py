"""A Hugging Face model, prepared, in Hugging Face's Trainer: a small BERT, which learns to tell lines of words."""

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import qat

LENGTH, WORDS = 12, 40


def lines(count, seed):
    """Return lines of words, and whether each has more words of the upper half of the vocabulary."""
    random = np.random.default_rng(seed)
    words = torch.from_numpy(random.integers(1, WORDS, (count, LENGTH)))
    labels = ((words >= WORDS // 2).sum(1) > LENGTH // 2).long()
    return [{"input_ids": x, "attention_mask": torch.ones_like(x), "labels": y} for x, y in zip(words, labels, strict=True)]


def batches(samples, size=64):
    """Return the inputs of samples in batches, by their names."""
    names = ("input_ids", "attention_mask")
    return [{n: torch.stack([s[n] for s in samples[i : i + size]]) for n in names} for i in range(0, len(samples), size)]


def accuracy(evaluation):
    """Return the share of lines told rightly."""
    return {"accuracy": float((evaluation.predictions.argmax(-1) == evaluation.label_ids).mean())}


def trainer(model, rate, epochs):
    """Return Hugging Face's Trainer of a model, float or prepared."""
    arguments = TrainingArguments(
        "lines", num_train_epochs=epochs, per_device_train_batch_size=64, learning_rate=rate, max_grad_norm=1.0,
        eval_strategy="epoch", save_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=train, eval_dataset=test, compute_metrics=accuracy)


torch.manual_seed(0)
train, test = lines(1024, seed=0), lines(256, seed=1)
float_model = BertForSequenceClassification(BertConfig(
    vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=LENGTH,
))  # fmt: skip
trainer(float_model, 1e-3, 4).train()

float_model.cpu().eval()
model = qat.calibrate(qat.prepare(float_model, batches(train)[0]), batches(train))
trainer(model, 1e-4, 1).train()

artifact = qat.export(model.cpu().eval(), "lines.onnx", verify=batches(test), overwrite=True)
print(f"{artifact.path}: {artifact.parity.line()}")
