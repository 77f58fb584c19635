"""ALR-GAN: AttnGAN's networks with layout refinement, the reference integration (E15)."""

from dataclasses import replace

from baselines.hosts.alrgan.presets import PRESETS
from baselines.hosts.attngan import HOST as ATTNGAN

HOST = replace(
    ATTNGAN,
    name="alrgan",
    summary="AttnGAN with adaptive layout refinement and layout visual refinement (E4-E12).",
    presets=PRESETS,
    # A converted original is an AttnGAN.
    read_original=None,
    original_names=None,
    describe=None,
)
