"""AttnGAN's released networks: `G_NET` with `GlobalAttentionGeneral`, and its `D_NET`s."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import nn

from baselines.hosts.attngan.fusion import WordAttention
from baselines.hosts.attngan.presets import CUB_MODEL
from baselines.hosts.stacked_original import (
    GATE_KEY,
    MEMORY_KEY,
    SPECTRAL_KEY,
    State,
    discriminator_description,
    discriminator_like,
    discriminator_names,
    generator_description,
    generator_like,
    generator_names,
    is_discriminator,
    is_generator,
)
from baselines.networks.discriminators import Discriminator
from baselines.networks.generator import StackedGenerator

NAMES = {"alr.word_projection.": "att.conv_context."}


def read_original(state: State) -> nn.Module | None:
    """The network that `state` belongs to, without values; None if it is not AttnGAN's."""
    if is_generator(state) and MEMORY_KEY not in state and GATE_KEY not in state:
        return generator_like(state, WordAttention)
    if is_discriminator(state) and SPECTRAL_KEY not in state:
        return discriminator_like(state)
    return None


def original_names(module: nn.Module) -> dict[str, str] | None:
    """The original's name of every entry of the state_dict; None if it has no such network."""
    if _is_generator(module):
        return generator_names(module, NAMES)
    return discriminator_names(module) if _is_discriminator(module) else None


def describe(module: nn.Module) -> dict[str, Any] | None:
    """Kind and sizes, see `Host.describe`."""
    if _is_generator(module):
        return generator_description(module, CUB_MODEL)
    return discriminator_description(module) if _is_discriminator(module) else None


def _is_generator(module: nn.Module) -> TypeGuard[StackedGenerator]:
    return isinstance(module, StackedGenerator) and all(
        isinstance(stage.fusion, WordAttention) for stage in module.stages
    )


def _is_discriminator(module: nn.Module) -> TypeGuard[Discriminator]:
    return (
        isinstance(module, Discriminator) and module.norm == "batch" and not module.sentence_first
    )
