"""From a configuration to the stacked networks that AttnGAN's family shares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from baselines.config import Config
from baselines.networks.contracts import GeneratorInputs, GeneratorOutput, RefinableStage
from baselines.networks.discriminators import Discriminator
from baselines.networks.generator import StackedGenerator


def stacked_generator(config: Config, fusion: Callable[[int, int], nn.Module]) -> StackedGenerator:
    """A generator of `config.model` whose stages bring the words in by `fusion`."""
    model = config.model
    generator = StackedGenerator(
        feature_dim=model.feature_dim,
        fusion=fusion,
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


def stacked_discriminators(config: Config, norm: str) -> nn.ModuleList:
    """One discriminator per painted stage, smallest images first; the setting overrules `norm`."""
    return nn.ModuleList(
        Discriminator(
            image_size=size,
            feature_dim=config.model.discriminator_dim,
            embedding_dim=config.encoder.embedding_dim,
            norm=config.model.discriminator_norm or norm,
            unconditional=not config.model.single_image,
        )
        for size in config.model.image_sizes
    )


def stacked_stages(config: Config, generator: nn.Module) -> tuple[RefinableStage, ...]:
    """Every stage but the first, decoded as `refine.decode` asks (both readings of E4).

    "head": E reads the image of the grid's own size, and the image head that reads h decodes h*.
    "stage": E reads the next larger image, and the whole refinement stage decodes h*.
    """
    assert isinstance(generator, StackedGenerator)
    whole = config.refine.decode == "stage"
    return tuple(_stage(generator, number, whole) for number in range(1, len(generator.stages) + 1))


def _stage(generator: StackedGenerator, number: int, whole: bool) -> RefinableStage:
    painted = number if whole else number - 1
    return RefinableStage(
        name=f"stage{number}",
        feature_dim=generator.feature_dim,
        features=partial(_features, index=number - 1),
        layout=partial(_layout, index=number - 1),
        source=generator.fusions[number - 1],
        decode=partial(_decode, generator, number, whole),
        image_size=generator.base_size * 2**painted,
        downsample=2 if whole else 1,
        anchor=next(generator.heads[painted].parameters()),
        host=generator,
    )


def _features(output: GeneratorOutput, *, index: int) -> Tensor:
    return output.features[index]


def _layout(output: GeneratorOutput, *, index: int) -> Tensor:
    return output.layouts[index]


def _decode(
    generator: StackedGenerator,
    number: int,
    whole: bool,
    features: Tensor,
    inputs: GeneratorInputs,
) -> Tensor:
    if not whole:
        return generator.heads[number - 1](features)
    # The condition of the pass that h comes from. Detached: what is reconstructed teaches how to
    # decode, not what a sentence means.
    condition, _, _ = generator.condition(inputs.text.sentence, inputs.eps)
    text = inputs.text._replace(condition=condition.detach())
    refined, _ = generator.stages[number - 1](features, text)
    return generator.heads[number](refined)
