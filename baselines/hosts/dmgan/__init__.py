"""DM-GAN: a dynamic memory as the fusion of a refinement stage."""

from baselines.hosts.dmgan.presets import PRESETS

__all__ = ["PRESETS"]
