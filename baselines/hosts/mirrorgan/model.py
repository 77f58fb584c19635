"""MirrorGAN's networks from a configuration."""

from __future__ import annotations

from functools import partial

from torch import nn

from baselines.config import Config
from baselines.hosts.mirrorgan.fusion import GlobalLocalAttention
from baselines.hosts.stacked import stacked_discriminators, stacked_generator
from baselines.networks.generator import StackedGenerator


def generator(config: Config) -> StackedGenerator:
    """The stacked generator with `GlobalLocalAttention` in its refinement stages."""
    condition_dim = config.model.condition_dim
    return stacked_generator(config, partial(GlobalLocalAttention, condition_dim=condition_dim))


def discriminators(config: Config) -> nn.ModuleList:
    """One discriminator per image size, with batch norm: AttnGAN's."""
    return stacked_discriminators(config, "batch")
