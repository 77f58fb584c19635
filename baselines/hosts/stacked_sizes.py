"""How many parameters the stacked networks have, from their settings alone; nothing needs torch."""

from __future__ import annotations

import math
from itertools import pairwise

from baselines.config import Config

LARGEST_SIDE = 2**20


def sides(config: Config) -> list[float]:
    """Sides of the stages' images, smallest first, until one is beyond all reason."""
    found = [float(config.model.base_size)]
    while len(found) < config.model.stages and found[-1] <= LARGEST_SIDE:
        found.append(2 * found[-1])
    return found


def halvings(side: float) -> int:
    """How often a grid of `side` is halved to reach 4x4."""
    return round(math.log2(side)) - 2


def parameters(config: Config) -> dict[str, float]:
    """Parameters of the generator and of every discriminator ("D64"), about."""
    model, width = config.model, config.encoder.embedding_dim
    g, wide = float(model.feature_dim), 2.0 * model.feature_dim
    residual = 9 * wide * 3 * wide + 6 * wide
    stage = model.residual_blocks * residual + 9 * wide * wide + 2 * wide + width * g
    painted = 1 if model.single_image else model.stages
    total = first_stage(config) + (model.stages - 1) * stage + painted * 27 * g
    found = sides(config)
    judged = found[-1:] if model.single_image else found
    return {"generator": total} | {
        f"D{side:.0f}": discriminator(config, side, width) for side in judged
    }


def first_stage(config: Config) -> float:
    """Parameters of the conditioning augmentation and of the stage that starts from noise."""
    model = config.model
    doublings = halvings(model.base_size)
    first = model.feature_dim * 2.0**doublings
    seed = 2 * first * 16
    total = (config.encoder.embedding_dim + 1) * 4.0 * model.condition_dim
    total += (model.condition_dim + model.noise_dim) * seed + 2 * seed
    for step in range(doublings):
        inner = first / 2**step
        total += 9 * inner * inner + 2 * inner
    return total


def discriminator(config: Config, side: float, width: float) -> float:
    """Parameters of the discriminator of `side`; `width`: of what its pairs are judged by."""
    d = float(config.model.discriminator_dim)
    heads = 1 if config.model.single_image else 2
    joint = (8 * d + width) * 8 * d * 9 + 2 * 8 * d + heads * (8 * d * 16 + 1)
    channels = discriminator_channels(d, side)
    total = 48 * channels[0]
    for before, after in pairwise(channels):
        total += before * after * (16 if after > before else 9) + 2 * after
    return total + joint


def discriminator_channels(d: float, side: float) -> list[float]:
    """Channels after every layer: doubled as the grid is halved, then brought back to 8 d."""
    down = halvings(side)
    channels = [max(8 * d / 2.0 ** (down - 1), d)]
    for _ in range(down - 1):
        channels.append(2 * channels[-1])
    while channels[-1] > 8 * d:
        channels.append(channels[-1] / 2)
    return channels
