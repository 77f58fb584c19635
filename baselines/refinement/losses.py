"""From settings to the library's losses and to the balance of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from alr_layers import ALRLoss, LVRLoss, TermBalance
from alr_layers.options import Mask, Normalization
from baselines.config import Config, RefineConfig


class ConstantWeight(nn.Module):
    """In place of φ: one weight for every element, without parameters (our extension)."""

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.channels, self.value = channels, value

    def forward(self, gated: Tensor) -> Tensor:
        """(B, L, H, W) -> (B, K, H, W), constant."""
        batch, _, height, width = gated.shape
        return gated.new_full((batch, self.channels, height, width), self.value)


def set_constant_weights(loss: ALRLoss, alpha: float, beta: float) -> None:
    """α and β as given, everywhere: nothing is left of E8, and the order term is a constant."""
    channels = loss.phi_easy.channels
    loss.register_module("phi_easy", ConstantWeight(channels, alpha))
    loss.register_module("phi_hard", ConstantWeight(channels, beta))


def alr_loss(config: Config, feature_dim: int) -> ALRLoss:
    """E5-E9 for real features of `feature_dim` channels; α = β = 1 where weighting is equal."""
    refine = config.refine
    loss = ALRLoss(
        feature_dim,
        max_words=max(feature_dim, config.data.max_words),
        gamma=refine.gamma,
        normalization=cast(Normalization, refine.normalization),
        detach_target=refine.detach_target,
    )
    if refine.weighting == "equal":
        set_constant_weights(loss, 1.0, 1.0)
    return loss


def lvr_loss(config: Config) -> LVRLoss:
    """E10-E12."""
    refine = config.refine
    return LVRLoss(
        mask=cast(Mask, refine.mask),
        normalization=cast(Normalization, refine.normalization),
        detach_target=refine.detach_target,
    )


def term_balance(refine: RefineConfig, names: list[str]) -> TermBalance:
    """Weight, start, ramp and share of the named terms.

    Terms that are there in one step of `refine.every` weigh as many times as much there.
    """
    terms = {name: getattr(refine, name) for name in names}
    return TermBalance(
        start={name: term.start for name, term in terms.items()},
        ramp={name: term.ramp for name, term in terms.items()},
        weights={name: refine.every * term.weight for name, term in terms.items()},
        **{name: term.share for name, term in terms.items()},
    )


def are_due(refine: RefineConfig, balance: TermBalance, names: Sequence[str], number: int) -> bool:
    """Whether any of the named terms counts in step `number`, from 1."""
    step = number - 1  # the balance counts from 0
    return step % refine.every == 0 and any(balance.weight(name, step) for name in names)


def norms_are_due(config: Config, number: int) -> bool:
    """Whether gradient norms are logged in step `number`: once for every line of the log.

    Where terms are due in some steps only, in the first such step from the line on.
    """
    return number % config.run.log_every < config.refine.every
