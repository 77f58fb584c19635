"""The one place where a trained generator draws; the pipeline and the metrics both come here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.data.loader import seeded_rng
from baselines.errors import UserError
from baselines.networks.contracts import GeneratorOutput

CUT = 2.0  # standard deviations, of truncated noise


@dataclass(frozen=True)
class Inputs:
    """What the generator takes.

    noise: (N, Z); eps: (N, C), of the conditioning augmentation; sentence: (N, E); words:
    (N, E, T); lengths: (N,).
    """

    noise: Tensor
    eps: Tensor
    sentence: Tensor
    words: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, start: int, stop: int) -> Inputs:
        """The rows from `start` up to `stop`."""
        return Inputs(*(value[start:stop] for value in vars(self).values()))


def check_truncation(truncation: float) -> None:
    """Refuse what cannot multiply noise.

    Raises:
        UserError: negative, infinite or not a number.
    """
    if not 0 <= truncation < math.inf:
        raise UserError(f"truncation is {truncation}; expected 0 (none) or a rate above")


def seeded_noise(
    noise_dim: int, condition_dim: int, *numbers: int, truncation: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Draw noise (Z,) and conditioning noise (C,) that depend on `numbers` alone, on the CPU.

    Args:
        noise_dim: Z.
        condition_dim: C, always standard normal.
        numbers: the seed, and what of it this is.
        truncation: 0 gives standard normal noise; a rate gives that many times a standard normal
            of [-2, 2], drawn anew where it falls outside: less varied, cleaner images. DF-GAN
            samples with 0.88.
    """
    rng = seeded_rng(*numbers)
    noise, eps = torch.randn(noise_dim, generator=rng), torch.randn(condition_dim, generator=rng)
    if not truncation:
        return noise, eps
    while (outside := noise.abs() > CUT).any():
        noise[outside] = torch.randn(int(outside.sum()), generator=rng)
    return truncation * noise, eps


def draw(generator: nn.Module, inputs: Inputs, device: torch.device) -> GeneratorOutput:
    """Run the generator over all rows of `inputs`; the result stays on `device`, without features.

    The rows are drawn at once, except by a generator with `legacy_mask`: its mis-tiled padding
    mask lets the images of a batch disturb each other, so it draws them one by one.
    """
    step = 1 if generator.legacy_mask else max(1, len(inputs))
    parts = []
    for start in range(0, len(inputs), step):
        part = inputs.rows(start, start + step)
        noise, eps, sentence, words, lengths = (value.to(device) for value in vars(part).values())
        parts.append(generator(noise, sentence, words, lengths, eps=eps))
    return GeneratorOutput(
        images=_joined([part.images for part in parts]),
        features=(),
        layouts=_joined([part.layouts for part in parts]),
        mu=torch.cat([part.mu for part in parts]),
        logvar=torch.cat([part.logvar for part in parts]),
    )


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Concatenate tuples of tensors entry by entry."""
    if len(parts) == 1:
        return tuple(parts[0])
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))
