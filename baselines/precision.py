"""Losses are computed in float32 at least, whatever autocast says."""

from __future__ import annotations

import torch
from torch import Tensor


def accurate(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float32, those in float64 as they are."""
    return tuple(t if t.dtype == torch.float64 else t.float() for t in tensors)


def no_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which nothing is cast on the device of `tensor`."""
    return torch.autocast(tensor.device.type, enabled=False)
