"""DM-GAN: a dynamic memory as the fusion of a refinement stage."""

from baselines.dmgan.fusion import DynamicMemory
from baselines.dmgan.presets import PRESETS

__all__ = ["PRESETS", "DynamicMemory"]
