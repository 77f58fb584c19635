"""All of one stage in one call: LayoutEncoder (E of E4) and LayoutRefinement (E4-E12)."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from alr_layers import _checks
from alr_layers.alr import ALRLoss
from alr_layers.lvr import LVRLoss


class LayoutSource(Protocol):
    """What `LayoutRefinement` needs of a host's module; `ALRModule` is one."""

    feature_dim: int

    def layout(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """(B, D, H, W), (B, C, T), (B,) -> (B, T, H, W)."""


def _normalized(channels: int) -> list[nn.Module]:
    """Group norm, not batch norm: it keeps no statistics and works on one sample."""
    groups = next(count for count in (8, 4, 2, 1) if channels % count == 0)
    return [nn.GroupNorm(groups, channels), nn.LeakyReLU(0.2)]


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

    Example:
        >>> import torch
        >>> LayoutEncoder(32, downsample=2)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 32, 8, 8])
    """

    def __init__(self, feature_dim: int, *, downsample: int = 1, width: int | None = None) -> None:
        super().__init__()
        self.feature_dim = _checks.count("feature_dim", feature_dim)
        self.downsample = _checks.count("downsample", downsample)
        if downsample & (downsample - 1):
            raise ValueError(f"downsample is {downsample}, expected a power of two")
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
            images: I*, (B, 3, H * s, W * s).

        Returns:
            h*, (B, D, H, W).

        Raises:
            ValueError: not three channels, or a side is no multiple of s.
            TypeError: the dtype does not fit.
        """
        _checks.floating("images", images, "B, 3, H, W")
        _checks.channels("images", images, 3, "red, green, blue")
        if images.shape[2] % self.downsample or images.shape[3] % self.downsample:
            raise ValueError(
                f"images has shape {tuple(images.shape)}, expected sides divisible by downsample ="
                f" {self.downsample}"
            )
        features: Tensor = self.layers(images)
        return features


class LayoutRefinement(nn.Module):
    """Everything one stage of a host needs in training, E4-E12, as unweighted terms.

    Encodes the real images, takes their layout with the host's own words and projection, decodes
    them with the host's own generator, and compares. The host weighs and sums the terms (E15).

    `module` and `decode` belong to the host and are not registered here: they are in neither
    `state_dict()` nor `parameters()` nor moved by `.to()`. To keep them shared with the host in a
    deep copy or a pickle, copy or pickle host and refinement together.

    Where E4 leaves "the generator as decoder" open, `decode` supports both readings: the image
    head that reads h_{i-1} (an encoder with downsample=1, images of the grid's size), or the whole
    refinement stage (downsample=2, images of twice that size). Real features that pass a stage must
    not update its running statistics of batch norm: inference would then use a mixture.

    Args:
        module: the stage's `ALRModule`, or anything with `feature_dim` and `layout(...)`.
        decode: decode(real_features, words, lengths) -> images of the size of `real_images`.
        use_lvr: whether to compute E10-E12; if not, `lvr` is left out.
        alr: the loss of E5-E9; None is `ALRLoss(module.feature_dim)`.
        lvr: the loss of E10-E12; None is `LVRLoss()`.
        encoder: images -> features; None is `LayoutEncoder(module.feature_dim)`.

    Example:
        >>> import torch
        >>> from alr_layers import ALRModule
        >>> module, head = ALRModule(32, 256), torch.nn.Conv2d(32, 3, 3, padding=1)
        >>> refine = LayoutRefinement(module, decode=lambda h, words, lengths: head(h))
        >>> features, images = torch.randn(2, 32, 8, 8), torch.randn(2, 3, 8, 8)
        >>> words, lengths = torch.randn(2, 256, 12), torch.tensor([12, 5])
        >>> context, layout = module(features, words, lengths)
        >>> sorted(refine(features, layout, images, words, lengths))
        ['alr', 'lvr', 'reconstruction']
    """

    def __init__(
        self,
        module: LayoutSource,
        *,
        decode: Callable[[Tensor, Tensor, Tensor], Tensor],
        use_lvr: bool = True,
        alr: ALRLoss | None = None,
        lvr: LVRLoss | None = None,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not callable(decode):
            raise TypeError(f"decode is a {type(decode).__name__}, expected a callable")
        # A tuple hides modules from nn.Module's registration.
        self._host = (module, decode)
        self.alr = ALRLoss(module.feature_dim) if alr is None else alr
        self.lvr = (LVRLoss() if lvr is None else lvr) if use_lvr else None
        self.encoder = LayoutEncoder(module.feature_dim) if encoder is None else encoder

    def real_branch(
        self, real_images: Tensor, words: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(h*, Θ*) of real images, (B, D, H, W) and (B, T, H, W), for `terms` and pictures."""
        real_features = self.encoder(real_images)
        return real_features, self._host[0].layout(real_features, words, lengths)

    def terms(
        self,
        features: Tensor,
        layout: Tensor,
        real_images: Tensor,
        words: Tensor,
        lengths: Tensor,
        *,
        real: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Every summand by name: "easy", "hard", "order", "reconstruction", "perception", "style".

        Arguments as `forward`, and `real`, the result of `real_branch` where the caller already has
        it. `total` makes of them what `forward` returns. The last two need `use_lvr`.
        """
        _checks.floating("features", features, "B, D, H, W")
        _checks.floating("real_images", real_images, "B, 3, H, W")
        _checks.same_sizes("real_images", real_images, "features", features, "0", "B")
        _checks.same_device(features=features, real_images=real_images)
        if real is None:
            real = self.real_branch(real_images, words, lengths)
        real_features, real_layout = real
        if real_features.shape != features.shape:
            raise ValueError(
                f"the encoder turns real_images of shape {tuple(real_images.shape)} into features"
                f" of shape {tuple(real_features.shape)}, expected {tuple(features.shape)} like"
                f" features; choose downsample so that the grids agree"
            )
        terms = self.alr.terms(layout, real_layout, real_features)
        terms["reconstruction"] = self._reconstruction(real_features, real_images, words, lengths)
        if self.lvr is not None:
            terms |= self.lvr.terms(features, real_features, layout, real_layout)
        return terms

    def _reconstruction(
        self, real_features: Tensor, real_images: Tensor, words: Tensor, lengths: Tensor
    ) -> Tensor:
        """L_REC of E4; its gradient reaches the encoder and whatever `decode` holds."""
        decoded = self._host[1](real_features, words, lengths)
        if decoded.shape != real_images.shape:
            raise ValueError(
                f"decode returned images of shape {tuple(decoded.shape)}, expected"
                f" {tuple(real_images.shape)} like real_images"
            )
        dtype = torch.promote_types(real_images.dtype, torch.float32)
        return (real_images.to(dtype) - decoded.to(dtype)).abs().mean()

    @staticmethod
    def total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `forward` returns, from what `terms` returns."""
        totals = {
            "alr": terms["easy"] + terms["hard"] + terms["order"],
            "reconstruction": terms["reconstruction"],
        }
        if "perception" in terms:
            totals["lvr"] = terms["perception"] + terms["style"]
        return totals

    def forward(
        self, features: Tensor, layout: Tensor, real_images: Tensor, words: Tensor, lengths: Tensor
    ) -> dict[str, Tensor]:
        """L_ALR, L_REC and L_LVR of one stage, unweighted.

        Args:
            features: h, (B, D, H, W), the features the host's ALR module read.
            layout: Θ, (B, T, H, W), what it returned.
            real_images: I*, (B, 3, H * s, W * s) with s the encoder's `downsample`.
            words: w, (B, C, T).
            lengths: (B,) integers in 1..T.

        Returns:
            {"alr", "reconstruction", "lvr"}, scalars; "lvr" only with `use_lvr`.

        Raises:
            ValueError: shapes or devices do not fit, or encoder or `decode` give the wrong size.
            TypeError: a dtype does not fit.
        """
        return self.total(self.terms(features, layout, real_images, words, lengths))

    def extra_repr(self) -> str:
        """What belongs to the host, for the printed module."""
        module, decode = self._host
        name = getattr(decode, "__qualname__", type(decode).__name__)
        return f"module={type(module).__name__} (the host's), decode={name} (the host's)"
