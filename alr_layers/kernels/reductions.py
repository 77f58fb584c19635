"""Per-sample reductions whose backward pass touches memory once: what E9 to E11 end in.

Each equals the plain ops named in its docstring, in value and in first and second derivative; only
the plain ops' backward passes go over their input several times, which on a CPU was a sixth of the
time of the whole loss path.
"""

# Older releases of torch leave Function.apply untyped.
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
from torch import Tensor


class _SumOfSquares(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
        return norm.square()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        values: Tensor = ctx.saved_tensors[0]
        return _per_sample(2 * grad, values) * values


class _Extreme(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, maximum: bool) -> Tensor:
        flat = values.flatten(1)
        return flat.amax(1) if maximum else flat.amin(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        values, extreme = (saved.detach() for saved in ctx.saved_tensors)
        met = values.clone().eq_(_per_sample(extreme, values))
        return met * _per_sample(grad / met.flatten(1).sum(1), values), None


def _per_sample(numbers: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to broadcast against `like`."""
    return numbers.view(-1, *[1] * (like.dim() - 1))


def sum_of_squares(values: Tensor) -> Tensor:
    """values.square().flatten(1).sum(1): (B, ...) -> (B,)."""
    result: Tensor = _SumOfSquares.apply(values)
    return result


def highest(values: Tensor) -> Tensor:
    """values.flatten(1).amax(1): (B, ...) -> (B,); tied entries share the gradient evenly."""
    result: Tensor = _Extreme.apply(values, True)
    return result


def lowest(values: Tensor) -> Tensor:
    """values.flatten(1).amin(1): (B, ...) -> (B,); tied entries share the gradient evenly."""
    result: Tensor = _Extreme.apply(values, False)
    return result
