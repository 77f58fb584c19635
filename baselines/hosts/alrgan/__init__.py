"""ALR-GAN: layout refinement on top of a host, and the presets of the reference integration."""

from baselines.hosts.alrgan.presets import PRESETS

__all__ = ["PRESETS"]
