"""Other ways to weigh easy and hard elements than the paper's φ, for the ablation alone.

Under the printed E9 the weights find a trivial minimum: α -> 0, β -> 1, for every element, because
both norms fall with their weights and the order term asks for nothing else. What follows tells what
of that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from alr_layers import ALRLoss
from baselines.refinement.losses import set_constant_weights
from baselines.training.objective import GANObjective


def alr_losses(objective: GANObjective) -> Iterator[ALRLoss]:
    """Every ALR loss among the objective's extra terms."""
    for extra in objective.extra_terms:
        for network in extra.networks.values():
            yield from (module for module in network.modules() if isinstance(module, ALRLoss))


class FixedMean(nn.Module):
    """φ whose weights average ½ over every sample: it can move weight, but not take it away."""

    def __init__(self, phi: nn.Module) -> None:
        super().__init__()
        self.phi = phi

    def forward(self, gated: Tensor) -> Tensor:
        """(B, L, H, W) -> (B, K, H, W) with mean ½ in every sample."""
        weights = self.phi(gated)
        return 0.5 * weights / weights.mean((1, 2, 3), keepdim=True)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor) -> Tensor:
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


class Ascending(nn.Module):
    """φ that climbs where the generator descends: it learns to weigh what is wrong the most."""

    def __init__(self, phi: nn.Module) -> None:
        super().__init__()
        self.phi = FixedMean(phi)

    def forward(self, gated: Tensor) -> Tensor:
        """(B, L, H, W) -> (B, K, H, W); gradients to φ are reversed, those to its input are not."""
        return _Reversed.apply(self.phi(_Reversed.apply(gated)))


def constant(alpha: float, beta: float) -> Callable[[GANObjective], None]:
    """α and β as given, everywhere."""

    def prepare(objective: GANObjective) -> None:
        for loss in alr_losses(objective):
            set_constant_weights(loss, alpha, beta)

    return prepare


def wrapped(kind: Callable[[nn.Module], nn.Module]) -> Callable[[GANObjective], None]:
    """Both φ inside a module of `kind`."""

    def prepare(objective: GANObjective) -> None:
        for loss in alr_losses(objective):
            loss.register_module("phi_easy", kind(loss.phi_easy))
            loss.register_module("phi_hard", kind(loss.phi_hard))

    return prepare


fixed_mean = wrapped(FixedMean)
ascending = wrapped(Ascending)


class WithoutOrder(ALRLoss):
    """E9 without softplus(max α - min β)."""

    def terms(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As `ALRLoss.terms`, with "order" zero."""
        terms = super().terms(*args, **kwargs)
        return terms | {"order": terms["order"].detach() * 0}


def without_order(objective: GANObjective) -> None:
    """Nothing drives hard weights above easy ones."""
    for loss in alr_losses(objective):
        loss.__class__ = WithoutOrder
