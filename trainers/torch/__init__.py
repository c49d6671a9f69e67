"""Fine-tuning PyTorch models: a learner for :mod:`qat.trainers.loop`."""

from qat.trainers.torch.evaluation import evaluate
from qat.trainers.torch.learner import finetune
from qat.trainers.torch.weights import load_weights

__all__ = ["evaluate", "finetune", "load_weights"]
