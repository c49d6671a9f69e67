"""Fine-tuning Keras models, of Keras 3 and of ``tf_keras``: a learner for :mod:`qat.trainers.loop`."""

from .evaluation import evaluate
from .learner import finetune
from .weights import load_weights

__all__ = ["evaluate", "finetune", "load_weights"]
