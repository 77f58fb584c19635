"""Differentiate losses before the rest of a step's graph exists, and hand the results on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Differentiated(torch.autograd.Function):
    """A scalar whose gradients are known already: backward multiplies them by what arrives."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [incoming.to(gradient.dtype) * gradient for gradient in ctx.saved_tensors]
        return None, None, *gradients, *[None] * len(gradients)


def differentiated(
    losses: Mapping[str, Tensor],
    at: Iterable[Tensor],
    cut: Mapping[Tensor, Tensor],
    *,
    shared: bool,
) -> dict[str, Tensor]:
    """The same losses with their gradients taken now, so that their graph can be forgotten.

    A loss whose graph stays until the whole step is differentiated keeps its activations beside
    those of all other losses. Where it needs nothing of these, differentiating it first, and
    scaling the gradients once its weight is known, gives the same sum up to rounding, and the
    activations are gone before the others begin. Measuring its gradient then costs no pass either.

    Args:
        losses: scalars by name.
        at: what they may depend on, parameters and keys of `cut`.
        cut: detached tensors, and what each was detached from: there the gradients go on.
        shared: whether the losses have parts of their graphs in common.

    Returns:
        Scalars by the same names, once differentiable. A loss without gradient stays as it is.
    """
    return {
        name: _differentiated(loss, tuple(at), cut, shared) if loss.requires_grad else loss
        for name, loss in losses.items()
    }


def _differentiated(
    loss: Tensor, at: tuple[Tensor, ...], cut: Mapping[Tensor, Tensor], shared: bool
) -> Tensor:
    # Autocast would count in a backward pass as well, and turn products of float32 into halves.
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(loss, at, allow_unused=True, retain_graph=shared)
    known = {place: found for place, found in zip(at, gradients, strict=True) if found is not None}
    inputs = [cut.get(place, place) for place in known]
    result: Tensor = _Differentiated.apply(  # type: ignore[no-untyped-call]  # untyped in torch
        loss.detach(), len(inputs), *inputs, *known.values()
    )
    return result
