"""AttnGAN's networks from a configuration."""

from __future__ import annotations

from torch import nn

from baselines.config import Config
from baselines.hosts.attngan.fusion import WordAttention
from baselines.hosts.stacked import stacked_discriminators, stacked_generator
from baselines.networks.generator import StackedGenerator


def generator(config: Config) -> StackedGenerator:
    """The stacked generator with `WordAttention` in its refinement stages."""
    return stacked_generator(config, WordAttention)


def discriminators(config: Config) -> nn.ModuleList:
    """One discriminator per image size, with batch norm."""
    return stacked_discriminators(config, "batch")
