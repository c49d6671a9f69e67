"""A copy of a float model, whatever its layers hold."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from qat.errors import CaptureError


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of a model.

    Layers may hold tensors that a pass has computed, which PyTorch does not copy: the weight of ``torch.nn.utils.prune`` and
    of the older ``weight_norm`` and ``spectral_norm``, features kept for a loss. The copy holds their values.

    Raises:
        CaptureError: the model holds something else that cannot be copied.
    """
    held = (leaf for module in model.modules() for leaf in pytree.tree_leaves({**vars(module), "_modules": None}))
    computed = {id(t): t.detach().clone() for t in held if isinstance(t, torch.Tensor) and not t.is_leaf}
    try:
        copied = copy.deepcopy(model, computed)
    except Exception as error:  # of whatever class the user's object raises
        what = (str(error).splitlines() or [""])[0]
        raise CaptureError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {what}): "
            "keep files, locks and tensors computed from others outside the model's layers"
        ) from error
    _gather_experts(copied)
    return copied


def _gather_experts(model: nn.Module) -> None:
    """Let mixtures of experts of Hugging Face gather the weights of the experts that a token takes.

    Their other forms sort the tokens by expert, with operators that no format has, or run as many steps as experts were chosen.
    """
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_experts_implementation", None) is not None:
            config._experts_implementation = "batched_mm"
