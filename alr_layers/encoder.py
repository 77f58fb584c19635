"""E of E4, which maps real images to features on the host's grid: LayoutEncoder."""

from typing import cast

from torch import Tensor, nn
from torch.nn.functional import interpolate

from alr_layers import _checks


def _grid(grid: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise TypeError(f"grid is {grid!r}, expected (H, W)")
    return _checks.count("grid height", grid[0]), _checks.count("grid width", grid[1])


def _normalized(channels: int) -> list[nn.Module]:
    """Group norm, not batch norm: it keeps no statistics and works on one sample."""
    groups = next(count for count in (8, 4, 2, 1) if channels % count == 0)
    # In place: neither norm nor activation needs what lies between them again.
    return [nn.GroupNorm(groups, channels), nn.LeakyReLU(0.2, inplace=True)]


class LayoutEncoder(nn.Module):
    """E of E4: maps real images to features h* on the grid of the host's features.

    3x3 convolutions at the images' size, one 4x4 convolution of stride 2 per halving, group norm
    and leaky ReLU; at the end, as in the hosts' own stages, a norm and a gated linear unit. That
    norm learns nothing: with a linear end, h* grew to many times the norm of h within a few hundred
    steps, and LVR then pulled h after it. "A small convolutional encoder" is all the paper says;
    this one is our reading. Training only.

    Args:
        feature_dim: D, channels of the features.
        downsample: s, a power of two: 1 if the images have the size of the feature grid
            (`decode` is an image head), 2 if they have twice that (`decode` is a whole stage).
        width: channels of the inner layers; None is `feature_dim`.
        grid: (H, W) of the feature grid, where the images are no power of two larger: they are
            resized to s times the grid first (bilinear, antialiased).

    Example:
        >>> import torch
        >>> LayoutEncoder(32, downsample=2)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 32, 8, 8])
    """

    def __init__(
        self,
        feature_dim: int,
        *,
        downsample: int = 1,
        width: int | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.feature_dim = _checks.count("feature_dim", feature_dim)
        self.downsample = _checks.count("downsample", downsample)
        if downsample & (downsample - 1):
            raise ValueError(f"downsample is {downsample}, expected a power of two")
        self.grid = None if grid is None else _grid(grid)
        width = feature_dim if width is None else _checks.count("width", width)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), *_normalized(width)]
        for _ in range(downsample.bit_length() - 1):
            layers += [nn.Conv2d(width, width, 4, stride=2, padding=1), *_normalized(width)]
        layers += [nn.Conv2d(width, width, 3, padding=1), *_normalized(width)]
        self.layers = nn.Sequential(
            *layers,
            nn.Conv2d(width, 2 * feature_dim, 3, padding=1),
            nn.GroupNorm(1, 2 * feature_dim, affine=False),
            nn.GLU(dim=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features of real images.

        Args:
            images: I*, (B, 3, H * s, W * s); of any size where `grid` is given. In any floating
                dtype: they are brought to that of the weights.

        Returns:
            h*, (B, D, H, W).

        Raises:
            ValueError: not three channels, a side is no multiple of s, or they lie on another
                device than the weights.
            TypeError: the dtype does not fit.
        """
        _checks.floating("images", images, "B, 3, H, W")
        _checks.channels("images", images, 3, "red, green, blue")
        weight = cast(nn.Conv2d, self.layers[0]).weight
        _checks.beside_weights("images", images, "LayoutEncoder", weight)
        images = images.to(weight.dtype)
        if self.grid is not None:
            images = self._resized(images, self.grid)
        if images.shape[2] % self.downsample or images.shape[3] % self.downsample:
            raise ValueError(
                f"images has shape {tuple(images.shape)}, expected sides divisible by downsample ="
                f" {self.downsample}"
            )
        features: Tensor = self.layers(images)
        return features

    def _resized(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        size = (grid[0] * self.downsample, grid[1] * self.downsample)
        if images.shape[2:] == size:
            return images
        return interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
