"""DF-GAN's critic: the original's `NetD` and its `NetC`, which judges features and sentence."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.hosts.dfgan.generator import SLOPE, widths
from baselines.networks.discriminators import require_images
from baselines.networks.generator import FIRST_GRID


class DownBlock(nn.Module):
    """Halved grid: a pooled shortcut plus a residual, which starts switched off.

    The shortcut's convolution exists in every block, as in the original's files, and is used only
    where the channels change.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_dim, out_dim, 4, 2, 1, bias=False),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
            nn.LeakyReLU(SLOPE),
        )
        self.shortcut = nn.Conv2d(in_dim, out_dim, 1)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/2, W/2)."""
        same = self.shortcut.in_channels == self.shortcut.out_channels
        straight = features if same else self.shortcut(features)
        return F.avg_pool2d(straight, 2) + self.gate * self.residual(features)


class MatchHead(nn.Module):
    """Is it a real image of this sentence: (B, 8n, 4, 4), (B, E) -> logits (B,)."""

    def __init__(self, feature_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.feature_dim, self.embedding_dim = feature_dim, embedding_dim
        self.joint = nn.Sequential(
            nn.Conv2d(8 * feature_dim + embedding_dim, 2 * feature_dim, 3, padding=1, bias=False),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * feature_dim, 1, FIRST_GRID, bias=False),
        )

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """One logit a pair; there is no sigmoid, the losses are hinges."""
        tiled = sentence[:, :, None, None].expand(-1, -1, FIRST_GRID, FIRST_GRID)
        joined = torch.cat((features, tiled.to(features.dtype)), dim=1)
        return self.joint(joined).flatten()


class DFGANDiscriminator(nn.Module):
    """Features of images, and `conditional`, which judges them with a sentence.

    Nothing judges an image alone. Everything is twice differentiable: the gradient penalty
    differentiates the logits by images and sentences, and its value by the weights.

    Args:
        image_size: R, a power of two from 32 on.
        feature_dim: n, channels after the first convolution.
        embedding_dim: E of the sentences; None leaves `conditional` out.

    Raises:
        ValueError: an impossible image size.
    """

    unconditional = None

    def __init__(
        self, *, image_size: int = 256, feature_dim: int = 32, embedding_dim: int | None = 256
    ) -> None:
        super().__init__()
        dims = widths(image_size, feature_dim)
        self.image_size, self.feature_dim = image_size, feature_dim
        self.first = nn.Conv2d(3, feature_dim, 3, padding=1)
        self.blocks = nn.Sequential(*(DownBlock(a, b) for a, b in pairwise(dims)))
        self.conditional = None if embedding_dim is None else MatchHead(feature_dim, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, 8n, 4, 4).

        Raises:
            ValueError: when the images have another size than the discriminator.
        """
        require_images(images, self.image_size)
        return self.blocks(self.first(images))
