"""From a configuration to networks and presets, by the model's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.config import Config, ConfigError, EncoderConfig, unknown_key
from baselines.hosts import alrgan, attngan, dmgan

# Presets are asked for by --help and --dry-run, which do not wait for torch.
if TYPE_CHECKING:
    from torch import nn

    from baselines.networks.encoders import ImageEncoder, TextEncoder
    from baselines.networks.generator import StackedGenerator

NORMS = {"attngan": "batch", "dmgan": "spectral", "alrgan": "batch"}
PRESETS: Mapping[str, Mapping[str, Config]] = {
    "attngan": attngan.PRESETS,
    "dmgan": dmgan.PRESETS,
    "alrgan": alrgan.PRESETS,
}


def preset(model: str, name: str) -> Config:
    """The configuration called `name` of `model`.

    Raises:
        ConfigError: no such model or preset; the nearest is named.
    """
    if model not in PRESETS:
        raise ConfigError(f"model: {unknown_key(model, list(PRESETS))}")
    if name not in PRESETS[model]:
        raise ConfigError(f"preset of {model}: {unknown_key(name, list(PRESETS[model]))}")
    return PRESETS[model][name]


def build_generator(config: Config) -> StackedGenerator:
    """The generator of `config.model`, freshly initialised."""
    from baselines.hosts.attngan.fusion import WordAttention
    from baselines.hosts.dmgan.fusion import DynamicMemory
    from baselines.networks.generator import StackedGenerator

    model = config.model
    generator = StackedGenerator(
        feature_dim=model.feature_dim,
        fusion=DynamicMemory if model.name == "dmgan" else WordAttention,
        embedding_dim=config.encoder.embedding_dim,
        condition_dim=model.condition_dim,
        noise_dim=model.noise_dim,
        base_size=model.base_size,
        stages=model.stages,
        residual_blocks=model.residual_blocks,
        single_image=model.single_image,
    )
    generator.legacy_mask = model.legacy_mask
    return generator


def build_discriminators(config: Config) -> nn.ModuleList:
    """One discriminator per stage, smallest images first."""
    from torch import nn

    from baselines.networks.discriminators import Discriminator

    return nn.ModuleList(
        Discriminator(
            image_size=size,
            feature_dim=config.model.discriminator_dim,
            embedding_dim=config.encoder.embedding_dim,
            norm=NORMS[config.model.name],
            unconditional=not config.model.single_image,
        )
        for size in config.model.image_sizes
    )


def build_text_encoder(encoder: EncoderConfig, vocabulary_size: int) -> TextEncoder:
    """The bidirectional LSTM of AttnGAN."""
    from baselines.networks.encoders import TextEncoder

    return TextEncoder(
        vocabulary_size,
        embedding_dim=encoder.embedding_dim,
        token_dim=encoder.token_dim,
        dropout=encoder.dropout,
    )


def build_image_encoder(
    encoder: EncoderConfig, *, fetch: bool = False, weights_file: Path | None = None
) -> ImageEncoder:
    """The image half of DAMSM.

    With `fetch`, its trunk starts from `weights_file`, or from the usual download where
    `encoder.pretrained` asks for it; otherwise its weights are about to be loaded.
    """
    from baselines.networks.encoders import ImageEncoder

    return ImageEncoder(
        embedding_dim=encoder.embedding_dim,
        trunk=encoder.trunk,
        pretrained=fetch and encoder.pretrained and weights_file is None,
        input_size=encoder.input_size,
        weights_file=weights_file if fetch else None,
        train_trunk=encoder.train_trunk,
    )
