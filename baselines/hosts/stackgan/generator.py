"""StackGAN++'s generator, as the original's `G_NET`: no words, the condition at every stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.networks.blocks import Residual, conv3, up
from baselines.networks.contracts import GeneratorOutput
from baselines.networks.generator import (
    ConditioningAugmentation,
    ImageHead,
    InitialStage,
    require_rows,
)
from baselines.networks.initialisation import initialise


class ConditionedStage(nn.Module):
    """The condition into features, residual blocks, doubled grid, half the channels."""

    def __init__(self, feature_dim: int, condition_dim: int, residual_blocks: int) -> None:
        super().__init__()
        self.joint = nn.Sequential(
            conv3(condition_dim + feature_dim, 2 * feature_dim),
            nn.BatchNorm2d(2 * feature_dim),
            nn.GLU(dim=1),
        )
        self.residual = nn.Sequential(*(Residual(feature_dim) for _ in range(residual_blocks)))
        self.upsample = up(feature_dim, feature_dim // 2)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, D, H, W), (B, C) -> (B, D/2, 2H, 2W)."""
        tiled = condition.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.upsample(self.residual(self.joint(torch.cat((tiled, features), dim=1))))


class StackGANGenerator(nn.Module):
    """Sentence and noise to images of growing size; the same sample of the condition throughout.

    Args:
        feature_dim: g, channels at the first image head; the next have g/2, g/4, ...
        embedding_dim: E of the sentence.
        condition_dim: C, of the conditioning augmentation.
        noise_dim: Z.
        base_size: side of the first stage's image, 8, 16, 32, 64, ...
        stages: number of stages; each after the first doubles the side.
        residual_blocks: R, per stage after the first.

    Raises:
        ValueError: the channels cannot be halved that often.
    """

    legacy_mask = False  # there are no words to mask

    def __init__(
        self,
        *,
        feature_dim: int,
        embedding_dim: int = 256,
        condition_dim: int = 128,
        noise_dim: int = 100,
        base_size: int = 64,
        stages: int = 3,
        residual_blocks: int = 2,
    ) -> None:
        super().__init__()
        if stages < 1 or feature_dim % 2 ** (stages - 1):
            raise ValueError(
                f"feature_dim={feature_dim} is halved at each of {stages} stages but the first: "
                f"expected a multiple of {2 ** max(0, stages - 1)}"
            )
        widths = [feature_dim >> stage for stage in range(stages)]
        self.image_sizes = tuple(base_size << stage for stage in range(stages))
        self.feature_dim = feature_dim
        self.embedding_dim = embedding_dim
        self.condition_dim = condition_dim
        self.noise_dim = noise_dim
        self.base_size = base_size
        self.residual_blocks = residual_blocks
        self.conditioning = ConditioningAugmentation(embedding_dim, condition_dim)
        self.initial = InitialStage(feature_dim, condition_dim, noise_dim, base_size)
        self.stages = nn.ModuleList(
            ConditionedStage(width, condition_dim, residual_blocks) for width in widths[:-1]
        )
        self.heads = nn.ModuleList(ImageHead(width) for width in widths)
        initialise(self)

    def forward(
        self,
        noise: Tensor,
        sentence: Tensor,
        words: Tensor,
        lengths: Tensor,
        *,
        eps: Tensor | None = None,
    ) -> GeneratorOutput:
        """Draw one image per row.

        Args:
            noise: (B, Z), standard normal.
            sentence: (B, E).
            words: not used.
            lengths: not used.
            eps: (B, C) noise of the conditioning augmentation; drawn when None, zeros give the
                mean condition.

        Raises:
            ValueError: when `noise` or `eps` has another width than the generator.
        """
        require_rows("noise", noise, self.noise_dim, len(sentence))
        mu, logvar = self.conditioning(sentence)
        if eps is None:
            eps = torch.randn_like(mu)
        require_rows("eps", eps, self.condition_dim, len(sentence))
        condition = self.conditioning.sample(mu, logvar, eps)
        features = [self.initial(condition, noise)]
        for stage in self.stages:
            features.append(stage(features[-1], condition))
        images = tuple(head(h) for head, h in zip(self.heads, features, strict=True))
        return GeneratorOutput(images, tuple(features), (), mu, logvar)
