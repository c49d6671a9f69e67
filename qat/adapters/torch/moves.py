"""The ATen operators that only move values: on integers they do what they do in float, with one scale."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

#: Maxima are taken of integers in the order of the real values. None of these reads more than one tensor to be moved.
MOVES: tuple[Any, ...] = ()
