"""The stacked generator shared by AttnGAN, AttnDCGAN and DM-GAN (`G_NET`, `G_DCGAN`).

What differs between the hosts is how a refinement stage brings the words in; that is a *fusion*
module, made by the factory that the generator is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from baselines.networks.blocks import Residual, conv3, up
from baselines.networks.contracts import Fusion, GeneratorOutput, Text
from baselines.networks.initialisation import initialise

FIRST_GRID = 4


def require_rows(name: str, value: Tensor, width: int, batch: int) -> None:
    """Raise a ValueError unless `value` is (batch, width)."""
    if value.shape != (batch, width):
        raise ValueError(f"{name} must be ({batch}, {width}), got {tuple(value.shape)}")


class ConditioningAugmentation(nn.Module):
    """Sentence vector -> mean and log variance of the condition (as AttnGAN's `CA_NET`)."""

    def __init__(self, embedding_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(embedding_dim, 4 * condition_dim)
        self.gate = nn.GLU(dim=1)

    def forward(self, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """(B, E) -> mu (B, C), logvar (B, C)."""
        mu, logvar = self.gate(self.fc(sentence)).chunk(2, dim=1)
        return mu, logvar

    @staticmethod
    def sample(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        """The condition c, (B, C), that noise (B, C) picks out of N(mu, exp(logvar))."""
        return mu + eps * torch.exp(0.5 * logvar)


class InitialStage(nn.Module):
    """Condition and noise -> features at the base size (as AttnGAN's `INIT_STAGE_G`).

    Starts on a 4x4 grid and doubles it, halving the channels, until `base_size`, where
    `feature_dim` channels are left.
    """

    def __init__(
        self, feature_dim: int, condition_dim: int, noise_dim: int, base_size: int
    ) -> None:
        super().__init__()
        doublings = (base_size // FIRST_GRID).bit_length() - 1
        if base_size != FIRST_GRID * 2**doublings or doublings < 1:
            raise ValueError(f"base_size must be 8, 16, 32, 64, ..., got {base_size}")
        self.first_dim = feature_dim * 2**doublings
        width = 2 * self.first_dim * FIRST_GRID**2
        self.fc = nn.Sequential(
            nn.Linear(condition_dim + noise_dim, width, bias=False),
            nn.BatchNorm1d(width),
            nn.GLU(dim=1),
        )
        self.upsample = nn.Sequential(
            *(up(self.first_dim >> k, self.first_dim >> (k + 1)) for k in range(doublings))
        )

    def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
        """(B, C), (B, Z) -> (B, g, base_size, base_size)."""
        seed = self.fc(torch.cat((condition, noise), dim=1))
        return self.upsample(seed.view(-1, self.first_dim, FIRST_GRID, FIRST_GRID))


class MaskedFusion(Fusion, Protocol):
    """A fusion whose padding mask can be that of the originals."""

    legacy_mask: bool


class RefinementStage(nn.Module):
    """Words into features, residual blocks, doubled grid (as AttnGAN's `NEXT_STAGE_G`).

    `fusion` is a module that keeps the contract of `contracts.Fusion`.
    """

    def __init__(self, fusion: nn.Module, feature_dim: int, residual_blocks: int) -> None:
        super().__init__()
        self.fusion = fusion
        self.residual = nn.Sequential(*(Residual(2 * feature_dim) for _ in range(residual_blocks)))
        self.upsample = up(2 * feature_dim, feature_dim)

    def forward(self, features: Tensor, text: Text) -> tuple[Tensor, Tensor | None]:
        """(B, g, H, W) -> features (B, g, 2H, 2W), layout (B, T, H, W), None without words."""
        fused, layout = self.fusion(features, text)
        return self.upsample(self.residual(fused)), layout


class ImageHead(nn.Sequential):
    """Features to pixels: (B, g, H, W) -> (B, 3, H, W) in [-1, 1]."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__(conv3(feature_dim, 3))

    def forward(self, features: Tensor) -> Tensor:
        """Pixels are at least float32: half precision cannot tell bright colours apart."""
        pixels = super().forward(features)
        return torch.tanh(pixels if pixels.dtype == torch.float64 else pixels.float())


class StackedGenerator(nn.Module):
    """Caption and noise to images of growing size.

    Args:
        feature_dim: g, channels at the image heads.
        fusion: factory `(feature_dim, embedding_dim) -> module` of the word fusion, called once
            for every stage but the first.
        embedding_dim: E of words and sentences.
        condition_dim: C, of the conditioning augmentation.
        noise_dim: Z.
        base_size: side of the first stage's image, 8, 16, 32, 64, ...
        stages: number of stages; each after the first doubles the side.
        residual_blocks: R, per refinement stage; 0 is allowed.
        single_image: paint only the last stage (AttnDCGAN).
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        fusion: Callable[[int, int], nn.Module],
        embedding_dim: int = 256,
        condition_dim: int = 100,
        noise_dim: int = 100,
        base_size: int = 64,
        stages: int = 3,
        residual_blocks: int = 2,
        single_image: bool = False,
    ) -> None:
        super().__init__()
        if stages < 1:
            raise ValueError(f"a generator needs at least one stage, got stages={stages}")
        sizes = tuple(base_size * 2**stage for stage in range(stages))
        self.image_sizes = sizes[-1:] if single_image else sizes
        self.feature_dim = feature_dim
        self.embedding_dim = embedding_dim
        self.condition_dim = condition_dim
        self.noise_dim = noise_dim
        self.base_size = base_size
        self.residual_blocks = residual_blocks
        self.single_image = single_image
        self.conditioning = ConditioningAugmentation(embedding_dim, condition_dim)
        self.initial = InitialStage(feature_dim, condition_dim, noise_dim, base_size)
        self.stages = nn.ModuleList(
            RefinementStage(fusion(feature_dim, embedding_dim), feature_dim, residual_blocks)
            for _ in range(stages - 1)
        )
        self.heads = nn.ModuleList(ImageHead(feature_dim) for _ in self.image_sizes)
        initialise(self)

    @property
    def fusions(self) -> tuple[MaskedFusion, ...]:
        """The fusion of every refinement stage, first to last."""
        # A module and a contract at once has no type.
        return tuple(cast(MaskedFusion, stage.fusion) for stage in self.stages)

    @property
    def legacy_mask(self) -> bool:
        """Whether padding is masked the originals' wrong way round (AttnGAN issue 93)."""
        return any(fusion.legacy_mask for fusion in self.fusions)

    @legacy_mask.setter
    def legacy_mask(self, value: bool) -> None:
        for fusion in self.fusions:
            fusion.legacy_mask = value

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
            words: (B, E, T), anything in the padded columns.
            lengths: (B,) integers, real words per caption.
            eps: (B, C) noise of the conditioning augmentation; drawn when None, zeros give the
                mean condition.

        Raises:
            ValueError: when `noise` or `eps` has another width than the generator.
        """
        require_rows("noise", noise, self.noise_dim, len(sentence))
        condition, mu, logvar = self.condition(sentence, eps)
        features = [self.initial(condition, noise)]
        text, layouts = Text(words, lengths, sentence, condition), []
        for stage in self.stages:
            refined, layout = stage(features[-1], text)
            features.append(refined)
            if layout is not None:
                layouts.append(layout)
        painted = features[-1:] if self.single_image else features
        images = tuple(head(h) for head, h in zip(self.heads, painted, strict=True))
        return GeneratorOutput(images, tuple(features), tuple(layouts), mu, logvar)

    def condition(self, sentence: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The condition that all stages are given, its mean and its log variance, (B, C) each.

        Args:
            sentence: (B, E).
            eps: (B, C); drawn when None.

        Raises:
            ValueError: when `eps` has another width than the generator.
        """
        mu, logvar = self.conditioning(sentence)
        if eps is None:
            eps = torch.randn_like(mu)
        require_rows("eps", eps, self.condition_dim, len(sentence))
        return self.conditioning.sample(mu, logvar, eps), mu, logvar
