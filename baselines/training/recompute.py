"""Activations computed again in the backward pass instead of kept: memory against time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from alr_layers import frozen_statistics


def recompute(modules: Iterable[nn.Module]) -> None:
    """Let each of `modules` keep its inputs alone for the backward pass.

    What is between is computed a second time there, from the same random state, and without moving
    running statistics a second time. Gradients are the same up to the order of rounding. Weights,
    buffers and their names stay. Not for modules whose forward changes more than that, such as
    spectral norm's power iteration: they would be another function the second time.
    """
    for module in modules:
        _recompute(module)


class _Frozen:
    """`frozen_statistics`, entered again for every backward through the same graph."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._open = module, ExitStack()

    def __enter__(self) -> None:
        self._open.enter_context(frozen_statistics(self._module))

    def __exit__(self, *error: Any) -> None:
        self._open.close()


def _recompute(module: nn.Module) -> None:
    forward = module.forward

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _Frozen(module)

    @wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    # On the instance: the class is that of the averaged network and of sampling as well.
    module.__dict__["forward"] = recomputed
