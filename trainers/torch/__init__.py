"""Fine-tuning PyTorch models: a learner for :mod:`qat.trainers.loop`."""

from .evaluation import evaluate
from .learner import finetune
from .weights import load_weights

__all__ = ["evaluate", "finetune", "load_weights"]
