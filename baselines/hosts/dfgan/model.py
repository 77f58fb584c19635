"""DF-GAN's networks from a configuration, and what of them can be refined."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from baselines.config import Config, ConfigError
from baselines.hosts.dfgan.discriminator import DFGANDiscriminator
from baselines.hosts.dfgan.generator import SMALLEST, DFGANGenerator
from baselines.networks.contracts import GeneratorInputs, GeneratorOutput, RefinableStage

LATER_BLOCKS = 2  # behind the refined features, which lie on a quarter of the image's grid


def generator(config: Config) -> DFGANGenerator:
    """The generator of `config.model`, whose image has `model.base_size` pixels a side.

    Raises:
        ConfigError: settings that mean nothing here, or too small an image.
    """
    model = config.model
    if model.stages != 1:
        raise ConfigError(
            f"model.stages={model.stages}: DF-GAN has one stage; set the image's side by "
            "model.base_size and model.stages=1"
        )
    if model.base_size < SMALLEST:
        raise ConfigError(
            f"model.base_size={model.base_size}: DF-GAN starts with 8 times its last channels and "
            f"needs {SMALLEST} px or more"
        )
    if model.discriminator_norm:
        raise ConfigError(
            f"model.discriminator_norm={model.discriminator_norm}: DF-GAN's discriminator has no "
            "norm, its gradient penalty takes that place; leave it empty"
        )
    return DFGANGenerator(
        image_size=model.base_size,
        feature_dim=model.feature_dim,
        embedding_dim=config.encoder.embedding_dim,
        noise_dim=model.noise_dim,
    )


def discriminators(config: Config) -> nn.ModuleList:
    """The one discriminator, with the head that judges pairs behind its own weights."""
    return nn.ModuleList(
        [
            DFGANDiscriminator(
                image_size=config.model.base_size,
                feature_dim=config.model.discriminator_dim,
                embedding_dim=config.encoder.embedding_dim,
            )
        ]
    )


def stages(config: Config, generator: nn.Module) -> tuple[RefinableStage, ...]:
    """The block's output on a quarter of the image's grid, 64x64 of 4n channels for 256 px.

    h* is decoded by the two blocks behind it and the image head, under the noise and the sentence
    of this step; E reads the whole image.

    Raises:
        ConfigError: the other reading of E4 is asked for, which needs an image head at h.
    """
    assert isinstance(generator, DFGANGenerator)
    if config.refine.source == "module" and config.refine.decode != "stage":
        raise ConfigError(
            f"refine.decode={config.refine.decode}: DF-GAN has an image head behind its last block "
            "alone; use refine.decode=stage"
        )
    done = len(generator.blocks) - LATER_BLOCKS
    (size,) = generator.image_sizes
    return (
        RefinableStage(
            name="stage1",
            feature_dim=4 * generator.feature_dim,
            features=partial(_features, index=done - 1),
            layout=None,
            source=None,
            decode=partial(_decode, generator, done),
            image_size=size,
            downsample=2**LATER_BLOCKS,
            anchor=next(generator.head.parameters()),
            host=generator,
        ),
    )


def _features(output: GeneratorOutput, *, index: int) -> Tensor:
    return output.features[index]


def _decode(
    generator: DFGANGenerator, done: int, features: Tensor, inputs: GeneratorInputs
) -> Tensor:
    condition = generator.condition(inputs.noise, inputs.text.sentence)
    return generator.finish(features, done, condition)
