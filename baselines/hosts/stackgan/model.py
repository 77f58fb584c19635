"""StackGAN++'s networks from a configuration, and what of them can be refined."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from baselines.config import Config, ConfigError
from baselines.hosts.stackgan.generator import StackGANGenerator
from baselines.networks.contracts import GeneratorInputs, GeneratorOutput, RefinableStage
from baselines.networks.discriminators import Discriminator


def generator(config: Config) -> StackGANGenerator:
    """The generator of `config.model`.

    Raises:
        ConfigError: sizes that StackGAN++ cannot have.
    """
    model = config.model
    if model.single_image:
        raise ConfigError(
            "model.single_image=true: StackGAN++ paints and judges every stage; use false"
        )
    step = 2 ** (model.stages - 1)
    if model.feature_dim % step:
        raise ConfigError(
            f"model.feature_dim={model.feature_dim}: StackGAN++ halves it at each of "
            f"model.stages={model.stages} but the first; use a multiple of {step}"
        )
    return StackGANGenerator(
        feature_dim=model.feature_dim,
        embedding_dim=config.encoder.embedding_dim,
        condition_dim=model.condition_dim,
        noise_dim=model.noise_dim,
        base_size=model.base_size,
        stages=model.stages,
        residual_blocks=model.residual_blocks,
    )


def discriminators(config: Config) -> nn.ModuleList:
    """One per stage, smallest images first; what they are told of the caption is its mean mu."""
    return nn.ModuleList(
        Discriminator(
            image_size=size,
            feature_dim=config.model.discriminator_dim,
            embedding_dim=config.model.condition_dim,
            norm=config.model.discriminator_norm or "batch",
            sentence_first=True,
        )
        for size in config.model.image_sizes
    )


def stages(config: Config, generator: nn.Module) -> tuple[RefinableStage, ...]:
    """Every stage but the first, decoded as `refine.decode` asks (both readings of E4).

    "head": E reads the image of the grid's own size, and the image head that reads h decodes h*.
    "stage": E reads the next larger image, and the whole stage decodes h* under this step's
    condition, detached: L_REC trains stage, head and E, but not the conditioning augmentation.
    """
    assert isinstance(generator, StackGANGenerator)
    whole = config.refine.decode == "stage"
    return tuple(_stage(generator, number, whole) for number in range(1, len(generator.stages) + 1))


def _stage(generator: StackGANGenerator, number: int, whole: bool) -> RefinableStage:
    painted = number if whole else number - 1
    return RefinableStage(
        name=f"stage{number}",
        feature_dim=generator.feature_dim >> (number - 1),
        features=partial(_features, index=number - 1),
        layout=None,
        source=None,
        decode=partial(_decode, generator, number, whole),
        image_size=generator.image_sizes[painted],
        downsample=2 if whole else 1,
        anchor=next(generator.heads[painted].parameters()),
        host=generator,
    )


def _features(output: GeneratorOutput, *, index: int) -> Tensor:
    return output.features[index]


def _decode(
    generator: StackGANGenerator,
    number: int,
    whole: bool,
    features: Tensor,
    inputs: GeneratorInputs,
) -> Tensor:
    if not whole:
        return generator.heads[number - 1](features)
    assert inputs.eps is not None
    mu, logvar = generator.conditioning(inputs.text.sentence)
    condition = generator.conditioning.sample(mu, logvar, inputs.eps).detach()
    return generator.heads[number](generator.stages[number - 1](features, condition))
