"""AttnGAN (and AttnDCGAN): word attention as the fusion of a refinement stage."""

from baselines.attngan.fusion import WordAttention
from baselines.attngan.presets import PRESETS

__all__ = ["PRESETS", "WordAttention"]
