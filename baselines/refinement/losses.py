"""From settings to the library's losses and to the balance of their weights."""

from __future__ import annotations

from typing import cast

from alr_layers import ALRLoss, LVRLoss, TermBalance
from alr_layers.options import Mask, Normalization
from baselines.config import Config, RefineConfig


def alr_loss(config: Config, feature_dim: int) -> ALRLoss:
    """E5-E9 for real features of `feature_dim` channels."""
    refine = config.refine
    return ALRLoss(
        feature_dim,
        max_words=max(feature_dim, config.data.max_words),
        gamma=refine.gamma,
        normalization=cast(Normalization, refine.normalization),
        detach_target=refine.detach_target,
    )


def lvr_loss(config: Config) -> LVRLoss:
    """E10-E12."""
    refine = config.refine
    return LVRLoss(
        mask=cast(Mask, refine.mask),
        normalization=cast(Normalization, refine.normalization),
        detach_target=refine.detach_target,
    )


def term_balance(refine: RefineConfig, names: list[str]) -> TermBalance:
    """Weight, start, ramp and share of the named terms."""
    terms = {name: getattr(refine, name) for name in names}
    return TermBalance(
        start={name: term.start for name, term in terms.items()},
        ramp={name: term.ramp for name, term in terms.items()},
        weights={name: term.weight for name, term in terms.items()},
        **{name: term.share for name, term in terms.items()},
    )
