"""DF-GAN's generator, as the original's `NetG` of 2022: no batch norm, the condition everywhere."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.networks.contracts import GeneratorOutput
from baselines.networks.generator import FIRST_GRID, require_rows

SLOPE = 0.2
SMALLEST = 32


def widths(image_size: int, feature_dim: int) -> list[int]:
    """Channels from the image to the 4x4 grid, one entry a grid: n, 2n, 4n, then 8n throughout.

    Raises:
        ValueError: `image_size` is no power of two, or below 32, where 8n is never reached.
    """
    if image_size < SMALLEST or image_size & (image_size - 1):
        raise ValueError(f"image_size must be 32, 64, 128, ..., got {image_size}")
    grids = image_size.bit_length() - FIRST_GRID.bit_length() + 1
    return [feature_dim * min(2**place, 8) for place in range(grids)]


def _affine_map(condition_dim: int, channels: int, start: float) -> nn.Sequential:
    """Condition to one number a channel; `start` whatever the condition, before any training."""
    last = nn.Linear(channels, channels)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, start)
    return nn.Sequential(nn.Linear(condition_dim, channels), nn.ReLU(), last)


class Affine(nn.Module):
    """Scales and shifts every channel by what the condition says; starts as the identity."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.scale = _affine_map(condition_dim, channels, 1.0)
        self.shift = _affine_map(condition_dim, channels, 0.0)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, c, H, W), (B, Z + E) -> (B, c, H, W)."""
        scale, shift = self.scale(condition), self.shift(condition)
        return scale[:, :, None, None] * features + shift[:, :, None, None]


class AffineFusion(nn.Module):
    """Two affine maps of the condition, each followed by a leaky ReLU (the original's `DFBLK`)."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.affines = nn.ModuleList(Affine(channels, condition_dim) for _ in range(2))

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, c, H, W), (B, Z + E) -> (B, c, H, W)."""
        for affine in self.affines:
            features = F.leaky_relu(affine(features, condition), SLOPE)
        return features


class UpBlock(nn.Module):
    """Doubled grid, then a residual of two fusions and convolutions; nothing follows the sum."""

    def __init__(self, in_dim: int, out_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(AffineFusion(dim, condition_dim) for dim in (in_dim, out_dim))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(dim, out_dim, 3, padding=1) for dim in (in_dim, out_dim)
        )
        same = in_dim == out_dim
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_dim, out_dim, 1)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, in, H, W), (B, Z + E) -> (B, out, 2H, 2W)."""
        features = residual = F.interpolate(features, scale_factor=2, mode="nearest")
        for fusion, convolution in zip(self.fusions, self.convolutions, strict=True):
            residual = convolution(fusion(residual, condition))
        return self.shortcut(features) + residual


class DFGANGenerator(nn.Module):
    """Sentence and noise to one image; no conditioning augmentation, no word.

    Args:
        image_size: R, a power of two from 32 on.
        feature_dim: n, channels that the image is painted from; the first grids have 8n.
        embedding_dim: E of the sentence.
        noise_dim: Z.

    Raises:
        ValueError: an impossible image size.
    """

    legacy_mask = False  # there are no words to mask
    condition_dim = 0

    def __init__(
        self,
        *,
        image_size: int = 256,
        feature_dim: int = 32,
        embedding_dim: int = 256,
        noise_dim: int = 100,
    ) -> None:
        super().__init__()
        dims = widths(image_size, feature_dim)[::-1]
        self.image_sizes = (image_size,)
        self.feature_dim = feature_dim
        self.embedding_dim = embedding_dim
        self.noise_dim = noise_dim
        self.first = nn.Linear(noise_dim, dims[0] * FIRST_GRID**2)
        self.blocks = nn.ModuleList(
            UpBlock(in_dim, out_dim, noise_dim + embedding_dim)
            for in_dim, out_dim in pairwise(dims)
        )
        self.head = nn.Conv2d(feature_dim, 3, 3, padding=1)

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
            noise: (B, Z), standard normal in training, truncated in the original's sampling.
            sentence: (B, E).
            words: not used.
            lengths: not used.
            eps: not used.

        Returns:
            One image; as features the output of every block, on grids of 8, 16, ..., R.

        Raises:
            ValueError: when `noise` has another width than the generator.
        """
        require_rows("noise", noise, self.noise_dim, len(sentence))
        condition = self.condition(noise, sentence)
        start = self.first(noise).unflatten(1, (-1, FIRST_GRID, FIRST_GRID))
        features = [start]
        for block in self.blocks:
            features.append(block(features[-1], condition))
        nothing = sentence.new_zeros(len(sentence), 0)
        return GeneratorOutput(
            (self.paint(features[-1]),), tuple(features[1:]), (), nothing, nothing
        )

    @staticmethod
    def condition(noise: Tensor, sentence: Tensor) -> Tensor:
        """What every affine map is given, noise before sentence: (B, Z + E)."""
        return torch.cat((noise, sentence), dim=1)

    def paint(self, features: Tensor) -> Tensor:
        """The last block's features to pixels, which are at least float32."""
        pixels = self.head(F.leaky_relu(features, SLOPE))
        return torch.tanh(pixels if pixels.dtype == torch.float64 else pixels.float())

    def finish(self, features: Tensor, done: int, condition: Tensor) -> Tensor:
        """The image (B, 3, R, R) that follows from the features of the first `done` blocks."""
        for block in self.blocks[done:]:
            features = block(features, condition)
        return self.paint(features)
