"""Discriminators of any image size, as AttnGAN's `D_NET64`, `D_NET128`, `D_NET256`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from baselines.networks.blocks import normalise_spectrally
from baselines.networks.initialisation import initialise

SLOPE = 0.2
LAST_GRID = 4
NORMS = ("batch", "spectral")


def _block(convolution: nn.Conv2d, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = [convolution]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(convolution.out_channels))
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE))


def _down(in_dim: int, out_dim: int, norm: str) -> nn.Sequential:
    """Halve the grid: (B, in, H, W) -> (B, out, H/2, W/2)."""
    return _block(nn.Conv2d(in_dim, out_dim, 4, 2, 1, bias=norm == "spectral"), norm)


def _flat(in_dim: int, out_dim: int, norm: str) -> nn.Sequential:
    """Keep the grid: (B, in, H, W) -> (B, out, H, W)."""
    return _block(nn.Conv2d(in_dim, out_dim, 3, 1, 1, bias=norm == "spectral"), norm)


def _trunk(image_size: int, dim: int, norm: str) -> nn.Sequential:
    """(B, 3, S, S) -> (B, 8 dim, 4, 4); the first convolution has no batch norm.

    From 64 px on the channels start at `dim`, double with every halving of the grid, and are
    brought back to 8 dim by flat convolutions. Smaller images start wider instead.
    """
    halvings = (image_size // LAST_GRID).bit_length() - 1
    if image_size != LAST_GRID * 2**halvings or halvings < 1:
        raise ValueError(f"image_size must be 8, 16, 32, 64, ..., got {image_size}")
    width = max(8 * dim >> (halvings - 1), dim)
    first = nn.Conv2d(3, width, 4, 2, 1, bias=norm == "spectral")
    layers = [nn.Sequential(first, nn.LeakyReLU(SLOPE))]
    for _ in range(halvings - 1):
        layers.append(_down(width, 2 * width, norm))
        width *= 2
    while width > 8 * dim:
        layers.append(_flat(width, width // 2, norm))
        width //= 2
    return nn.Sequential(*layers)


class _Logit(nn.Conv2d):
    """One number from a whole map, (B, D, 4, 4) -> (B,).

    A convolution as large as its map is a product of two matrices, which a CPU does several times
    faster than the convolution; weights keep the convolution's shape and name.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 1, LAST_GRID, stride=LAST_GRID)

    def forward(self, features: Tensor) -> Tensor:
        """The sum over all channels and places, weighed, and the bias."""
        return linear(features.flatten(1), self.weight.flatten(1), self.bias).flatten()


class UnconditionalHead(nn.Module):
    """Is it a real image: (B, 8d, 4, 4) -> logits (B,)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.logit = _Logit(dim)

    def forward(self, features: Tensor) -> Tensor:
        """The logit; its sigmoid is the probability of a real image."""
        return self.logit(features)


class ConditionalHead(nn.Module):
    """Does the image show this sentence: (B, 8d, 4, 4), (B, E) -> logits (B,).

    `sentence_first`: the order of sentence and features where they are joined.
    """

    def __init__(
        self, dim: int, embedding_dim: int, norm: str, *, sentence_first: bool = False
    ) -> None:
        super().__init__()
        self.sentence_first = sentence_first
        self.joint = _flat(dim + embedding_dim, dim, norm)
        self.logit = _Logit(dim)

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """The logit; its sigmoid is the probability of a real and matching image."""
        tiled = sentence[:, :, None, None].expand(-1, -1, LAST_GRID, LAST_GRID)
        parts = (features, tiled.to(features.dtype))
        joined = torch.cat(parts[::-1] if self.sentence_first else parts, dim=1)
        return self.logit(self.joint(joined))


def require_images(images: Tensor, size: int) -> None:
    """Check that a discriminator is given what it judges.

    Raises:
        ValueError: `images` are not (B, 3, size, size).
    """
    if images.shape[1:] != (3, size, size):
        raise ValueError(
            f"this discriminator judges (B, 3, {size}, {size}) images, got {tuple(images.shape)}"
        )


class Discriminator(nn.Module):
    """Judges images of one size, alone and against a sentence.

    `forward` gives the features that both heads share; losses apply `unconditional(features)` and
    `conditional(features, sentence)`, which return logits (B,). `unconditional` is None when it
    is left out (AttnDCGAN).

    Args:
        image_size: 8, 16, 32, 64, ... pixels.
        feature_dim: d, channels after the first convolution of a 64 px discriminator.
        embedding_dim: E of the sentences.
        norm: "batch" (AttnGAN) or "spectral" (DM-GAN: convolutions with bias, spectrally
            normalised, except the two that give the logits).
        unconditional: whether there is an unconditional head.
        sentence_first: whether the sentence is put before the features, as StackGAN++ does.
    """

    def __init__(
        self,
        *,
        image_size: int,
        feature_dim: int,
        embedding_dim: int = 256,
        norm: str = "batch",
        unconditional: bool = True,
        sentence_first: bool = False,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
        self.image_size = image_size
        self.feature_dim = feature_dim
        self.embedding_dim = embedding_dim
        self.norm = norm
        self.sentence_first = sentence_first
        self.trunk = _trunk(image_size, feature_dim, norm)
        self.unconditional = UnconditionalHead(8 * feature_dim) if unconditional else None
        self.conditional = ConditionalHead(
            8 * feature_dim, embedding_dim, norm, sentence_first=sentence_first
        )
        initialise(self)
        if norm == "spectral":
            normalise_spectrally(self.trunk)
            normalise_spectrally(self.conditional.joint)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 8d, 4, 4).

        Raises:
            ValueError: when the images have another size than the discriminator.
        """
        require_images(images, self.image_size)
        return self.trunk(images)
