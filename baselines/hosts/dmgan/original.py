"""DM-GAN's released networks: `G_NET` with a dynamic memory, `D_NET`s with spectral norm."""

from __future__ import annotations

from torch import nn

from baselines.hosts.dmgan.fusion import DynamicMemory
from baselines.hosts.stacked_original import (
    MEMORY_KEY,
    SPECTRAL_KEY,
    State,
    discriminator_like,
    discriminator_names,
    generator_like,
    generator_names,
    is_discriminator,
    is_generator,
)
from baselines.networks.discriminators import Discriminator
from baselines.networks.generator import StackedGenerator

NAMES = {
    "word_gate.": "A.",
    "image_gate.": "B.",
    "write_words.": "M_w.",
    "write_image.": "M_r.",
    "key.": "key.",
    "value.": "value.",
    "response_gate.": "response_gate.0.",
}


def read_original(state: State) -> nn.Module | None:
    """The network that `state` belongs to, without values; None if it is not DM-GAN's."""
    if is_generator(state) and MEMORY_KEY in state:
        return generator_like(state, DynamicMemory)
    if is_discriminator(state) and SPECTRAL_KEY in state:
        return discriminator_like(state)
    return None


def original_names(module: nn.Module) -> dict[str, str] | None:
    """The original's name of every entry of the state_dict; None if it has no such network."""
    if isinstance(module, StackedGenerator):
        fusions = [stage.fusion for stage in module.stages]
        if any(isinstance(fusion, DynamicMemory) for fusion in fusions):
            return generator_names(module, NAMES)
    if isinstance(module, Discriminator) and module.norm == "spectral":
        return discriminator_names(module)
    return None
