"""Building blocks of the stacked generators and discriminators of AttnGAN's family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


def conv3(in_dim: int, out_dim: int) -> nn.Conv2d:
    """3x3 convolution that keeps the grid, without bias: (B, in, H, W) -> (B, out, H, W)."""
    return nn.Conv2d(in_dim, out_dim, 3, padding=1, bias=False)


def up(in_dim: int, out_dim: int) -> nn.Sequential:
    """Nearest-neighbour doubling with a gated convolution: (B, in, H, W) -> (B, out, 2H, 2W)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        conv3(in_dim, 2 * out_dim),
        nn.BatchNorm2d(2 * out_dim),
        nn.GLU(dim=1),
    )


class Residual(nn.Module):
    """x + f(x) with a gated inner convolution; nothing follows the sum. Keeps (B, dim, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv3(dim, 2 * dim),
            nn.BatchNorm2d(2 * dim),
            nn.GLU(dim=1),
            conv3(dim, dim),
            nn.BatchNorm2d(dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        return features + self.block(features)


class SpectralNorm(nn.Module):
    """Parametrisation that divides a weight by an estimate of its largest singular value.

    One power iteration per forward in training and none in evaluation. torch's own
    `spectral_norm` iterates u before v; DM-GAN iterates v before u, which is another estimate
    until both have converged, hence this one. The buffers carry torch's names, so a state_dict
    of either loads into the other. `weight`: the initialised weight (out, ...), from which the
    vectors are warmed up.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, warm_up: int = 15) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("_u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("_v", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(warm_up):
            self._iterate(matrix)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        v = F.normalize(matrix.t() @ self._u, dim=0)
        u = F.normalize(matrix @ v, dim=0)
        self._u.copy_(u)
        self._v.copy_(v)
        return u, v

    @contextmanager
    def held(self, u: Tensor, v: Tensor) -> Iterator[None]:
        """Divide by the estimate that `u` (out,) and `v` (in,) give, and leave our own alone."""
        training, own = self.training, (self._u, self._v)
        self.training, self._u, self._v = False, u, v
        try:
            yield
        finally:
            self.training, (self._u, self._v) = training, own

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight, of the shape and dtype of `weight`."""
        # Autocast would run the products in half precision, and the estimate divides every weight.
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            # Copies, because a second forward before the backward overwrites the buffers.
            u, v = (
                self._iterate(matrix.detach())
                if self.training
                else (self._u.clone(), self._v.clone())
            )
            return weight / torch.dot(u, matrix @ v)


def normalise_spectrally(module: nn.Module) -> nn.Module:
    """Put `SpectralNorm` on the weight of every convolution inside `module`; returns it."""
    convolutions = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    for convolution in convolutions:
        # unsafe: skips a trial call, which the meta device cannot make and which would iterate.
        parametrize.register_parametrization(
            convolution, "weight", SpectralNorm(convolution.weight), unsafe=True
        )
    return module
