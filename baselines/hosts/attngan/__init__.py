"""AttnGAN (and AttnDCGAN): word attention as the fusion of a refinement stage."""

from baselines.hosts.attngan.presets import PRESETS

__all__ = ["PRESETS"]
