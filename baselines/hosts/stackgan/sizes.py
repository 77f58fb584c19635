"""How many parameters StackGAN++'s networks have, from their settings alone; none needs torch."""

from __future__ import annotations

from baselines.config import Config
from baselines.hosts.stacked_sizes import discriminator, first_stage, sides


def parameters(config: Config) -> dict[str, float]:
    """Parameters of the generator, whose stages halve the channels, and of every discriminator."""
    model, found = config.model, sides(config)
    total = first_stage(config)
    for stage in range(len(found)):
        width = model.feature_dim / 2.0**stage
        total += 27 * width
        if stage < len(found) - 1:
            total += (model.condition_dim + width) * 18 * width + 4 * width
            total += model.residual_blocks * (27 * width * width + 6 * width)
            total += 9 * width * width + 2 * width
    judged = {f"D{side:.0f}": discriminator(config, side, model.condition_dim) for side in found}
    return {"generator": total, **judged}
