"""Weights as arrays and as ``.safetensors`` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qat.errors import DataError
from qat.system.atomic_files import write_atomically


def array_of(tensor: Tensor) -> np.ndarray:
    """Return a copy of a tensor on the host; bfloat16, which NumPy lacks, as the integers of its bits."""
    host = tensor.detach().cpu().contiguous()
    array: np.ndarray = (host.view(torch.int16) if host.dtype == torch.bfloat16 else host).numpy().copy()
    return array


def tensor_like(array: np.ndarray, like: Tensor) -> Tensor:
    """Return the tensor that :func:`array_of` turned into an array; ``like`` says whether it was bfloat16."""
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(torch.bfloat16) if like.dtype == torch.bfloat16 and tensor.dtype == torch.int16 else tensor


def arrays_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Return a copy of a model's state."""
    return {name: array_of(tensor) for name, tensor in model.state_dict().items()}


def put(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Put a model's state back."""
    model.load_state_dict({name: tensor_like(arrays[name], tensor) for name, tensor in model.state_dict().items()})


def save_weights(model: nn.Module, path: Path) -> Path:
    """Write a model's state as a ``.safetensors`` file; returns its path."""
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    return write_atomically(path, save(tensors), overwrite=True)


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load a ``.safetensors`` file into a model.

    Raises:
        DataError: the file is missing, truncated, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        if any(name.startswith("epoch_random/") for name in tensors):
            raise DataError(
                f"{path} is where training continues (--resume), not a model: give best.safetensors or last.safetensors"
            )
        model.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise DataError(f"no such checkpoint: {path}") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a whole .safetensors file ({error}): use the checkpoint before it") from error
    except RuntimeError as error:
        raise DataError(f"{path} holds the weights of another model: {str(error).splitlines()[-1].strip()}") from error
    return model
