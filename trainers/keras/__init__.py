"""Fine-tuning Keras models, of Keras 3 and of ``tf_keras``: a learner for :mod:`qat.trainers.loop`."""

from qat.trainers.keras.evaluation import evaluate
from qat.trainers.keras.learner import finetune
from qat.trainers.keras.weights import load_weights

__all__ = ["evaluate", "finetune", "load_weights"]
