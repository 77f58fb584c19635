"""Weights over time, and terms held at a share of the host's gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from baselines.config import TermConfig
from baselines.training.distributed import World, mean_over_ranks

# Measuring costs one more backward pass of the host and of each term, and the ratio moves slowly.
INTERVAL = 16


def ramped_weight(term: TermConfig, number: int) -> float:
    """The weight of `term` at step `number` (from 1): 0 before its start, then a linear ramp."""
    if number <= term.start:
        return 0.0
    if not term.ramp:
        return term.weight
    return term.weight * min(1.0, (number - term.start) / term.ramp)


class TermBalance(nn.Module):
    """Scales that keep each term's gradient at a chosen share of the host's (our reading).

    As VQ-GAN weighs its adversarial term: scale = share · ‖∂ host / ∂x‖ / ‖∂ term / ∂x‖, where x
    is the features the stage reads, or for a term that does not reach them (reconstruction) a
    weight that both reach. Measured every `INTERVAL` steps and kept in between; a term whose
    share is 0 keeps the scale 1.
    """

    def __init__(self, shares: Mapping[str, float], stages: int, world: World) -> None:
        super().__init__()
        self.shares = dict(shares)
        self.world = world
        for name, share in self.shares.items():
            # Until first measured, a shared term does not count at all.
            self.register_buffer(name, torch.full((stages,), 0.0 if share else 1.0))

    def scale(self, name: str, stage: int) -> Tensor:
        """The scale of a term at a stage (counted from 0), a scalar tensor of its own."""
        return self.get_buffer(name)[stage].clone()

    def due(self, number: int) -> bool:
        """Whether shared terms are measured anew at step `number`."""
        return any(self.shares.values()) and number % INTERVAL == 0

    def measure(
        self,
        stage: int,
        host: Tensor,
        terms: Mapping[str, Tensor],
        features: Tensor,
        anchors: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Measure gradient norms, update the scales of shared terms, return the norms.

        Args:
            stage: counted from 0.
            host: the host's whole loss.
            terms: the unweighted added terms of the stage.
            features: h of the stage, where gradients are compared.
            anchors: for terms that do not reach the features, the tensor to compare at.
        """
        norms: dict[str, Tensor] = {"host_gradient": gradient_norm(host, features)}
        for name, term in terms.items():
            anchor = anchors.get(name, features)
            at_host = norms["host_gradient"] if anchor is features else gradient_norm(host, anchor)
            norm = gradient_norm(term, anchor)
            norms[f"{name}_gradient"] = norm
            if self.shares[name]:
                both = mean_over_ranks(torch.stack([at_host, norm]), self.world)
                wanted = self.shares[name] * both[0] / both[1].clamp_min(1e-20)
                # A term with no gradient at all must not leave an enormous scale behind.
                self.get_buffer(name)[stage] = torch.where(both[1] > 0, wanted, 0)
        return norms


def gradient_norm(loss: Tensor, at: Tensor) -> Tensor:
    """‖∂ loss / ∂ at‖ as a float32 scalar; 0 where the loss does not reach `at`."""
    (gradient,) = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    return at.new_zeros((), dtype=torch.float32) if gradient is None else gradient.float().norm()
