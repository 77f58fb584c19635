"""Activations computed again in the backward pass instead of kept: memory against time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alr_layers import frozen_statistics
from baselines.networks.blocks import SpectralNorm


def recompute(modules: Iterable[nn.Module]) -> None:
    """Let each of `modules` keep its inputs alone for the backward pass.

    What is between is computed a second time there, from the same random state, and without moving
    running statistics or the vectors of `SpectralNorm` a second time. Gradients are the same up to
    the order of rounding, also those of gradients. Weights, buffers and their names stay. Not for
    modules whose forward changes more than that: they would be another function the second time.
    """
    for module in modules:
        _recompute(module)


class _First:
    """The first pass: remembers the singular vectors that it ends with."""

    def __init__(self, module: nn.Module) -> None:
        self._norms = [part for part in module.modules() if isinstance(part, SpectralNorm)]
        self.vectors: list[tuple[SpectralNorm, Tensor, Tensor]] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        # Copies: the network may be passed again before the backward.
        self.vectors = [(norm, norm._u.clone(), norm._v.clone()) for norm in self._norms]


class _Again:
    """The same pass again: nothing moves. Entered for every backward through the same graph."""

    def __init__(self, module: nn.Module, first: _First) -> None:
        self._module, self._first, self._open = module, first, ExitStack()

    def __enter__(self) -> None:
        self._open.enter_context(frozen_statistics(self._module))
        for norm, u, v in self._first.vectors:
            self._open.enter_context(norm.held(u, v))

    def __exit__(self, *error: Any) -> None:
        self._open.close()


def _recompute(module: nn.Module) -> None:
    forward = module.forward

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        first = _First(module)
        return first, _Again(module, first)

    @wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    # On the instance: the class is that of the averaged network and of sampling as well.
    module.__dict__["forward"] = recomputed
