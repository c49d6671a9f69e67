"""PTQ baselines: the tools without training, on the same float weights and the same calibration samples."""

from .baseline import Baseline
from .ptq import float_baseline, ptq_baselines

__all__ = ["Baseline", "float_baseline", "ptq_baselines"]
