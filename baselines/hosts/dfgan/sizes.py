"""How many parameters DF-GAN's networks have, from their settings alone; nothing needs torch."""

from __future__ import annotations

from itertools import pairwise

from baselines.config import Config
from baselines.hosts.stacked_sizes import halvings


def parameters(config: Config) -> dict[str, float]:
    """Parameters of the generator and of the discriminator of its images."""
    model, width = config.model, float(config.encoder.embedding_dim)
    n, d = float(model.feature_dim), float(model.discriminator_dim)
    # From the image to the 4x4 grid; the generator goes the other way.
    steps = [min(2.0**place, 8.0) for place in range(halvings(model.base_size) + 1)]
    condition = model.noise_dim + width
    generator = (model.noise_dim + 1) * 16 * n * steps[-1] + 27 * n + 3
    judge = 28 * d + (8 * d + width) * 18 * d + 32 * d
    for fine, coarse in pairwise(steps):
        generator += _up_block(n * coarse, n * fine, condition)
        judge += _down_block(d * fine, d * coarse)
    return {"generator": generator, f"D{model.base_size}": judge}


def _up_block(before: float, after: float, condition: float) -> float:
    shortcut = 0.0 if before == after else before * after + after
    convolutions = 9 * before * after + 9 * after * after + 2 * after
    affine = sum(4 * (condition * width + width * width + 2 * width) for width in (before, after))
    return affine + convolutions + shortcut


def _down_block(before: float, after: float) -> float:
    return 16 * before * after + 9 * after * after + before * after + after + 1
