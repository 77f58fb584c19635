"""Convolutional trunks of the image encoder.

A trunk maps images (B, 3, S, S) in [-1, 1] to a map of regions (B, region_dim, R, R) and a pooled
vector (B, code_dim), and says `region_dim`, `code_dim` and `region_size` (R).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines.errors import UserError

INCEPTION = "inception_v3"
SMALL = "small"
INCEPTION_TAG = "inception_v3.tv_in1k"
SMALL_REGIONS = 8
# torchvision's file also holds the classifier and the auxiliary head, which are not used here.
UNUSED_INCEPTION_KEYS = ("AuxLogits.", "fc.")


class Trunk(nn.Module):
    """What an image encoder stands on; images (B, 3, S, S) in [-1, 1].

    region_dim: channels of the map of regions.
    code_dim: width of the pooled vector.
    region_size: R, side of the map of regions.
    """

    region_dim: int
    code_dim: int
    region_size: int


class InceptionTrunk(Trunk):
    """Inception-v3 with regions from Mixed_6e (17x17 at 299 px), as AttnGAN's `CNN_ENCODER`."""

    region_dim = 768
    code_dim = 2048

    def __init__(self, input_size: int, pretrained: bool, weights_file: Path | None) -> None:
        super().__init__()
        import timm  # here and below: it takes a second, which the small trunk need not wait for

        if input_size < 75:
            raise UserError(f"{INCEPTION} needs input_size of at least 75, got {input_size}")
        grid = _valid(input_size, 3, 2)  # 1a
        grid = _valid(_valid(grid, 3, 1), 3, 2)  # 2a, pool (2b keeps the grid)
        grid = _valid(_valid(grid, 3, 1), 3, 2)  # 4a, pool
        self.region_size = _valid(grid, 3, 2)  # Mixed_6a
        self.net = _create(
            lambda download: timm.create_model(
                INCEPTION_TAG, pretrained=download, num_classes=0, aux_logits=False
            ),
            INCEPTION,
            download=pretrained and weights_file is None,
        )
        if weights_file is not None:
            _load_inception(self.net, weights_file)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) -> (B, 768, R, R), (B, 2048)."""
        regions = self.net.forward_preaux(images)
        return regions, self.net.forward_postaux(regions).mean(dim=(2, 3))


class PyramidTrunk(Trunk):
    """Any timm network with feature levels.

    Regions come from the deepest level of stride at most 16 whose grid is at least 8x8 (else from
    the finest level), the code from the deepest level of all. `normalise`: give the network its
    images as it was trained on them, not in [-1, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        name: str,
        input_size: int,
        pretrained: bool,
        weights_file: Path | None,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        import timm

        overlay = {}
        if weights_file is not None:
            _require_timm_weights(name, weights_file)
            overlay = {"file": str(weights_file)}
        self.net = _create(
            lambda load: timm.create_model(
                name, features_only=True, pretrained=load, pretrained_cfg_overlay=overlay
            ),
            name,
            download=pretrained or weights_file is not None,
        )
        strides = self.net.feature_info.reduction()
        fitting = [k for k, s in enumerate(strides) if s <= 16 and input_size // s >= 8]
        self.level = max(fitting, default=0)
        self.region_dim = self.net.feature_info.channels()[self.level]
        self.code_dim = self.net.feature_info.channels()[-1]
        self.region_size = -(-input_size // strides[self.level])
        seen = self.net.default_cfg if normalise else {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        # These constants are in no state_dict: they must not end up on the meta device.
        mean, std = (torch.tensor(seen[k], device="cpu").view(3, 1, 1) for k in ("mean", "std"))
        # From [-1, 1] to what the network was trained on: ((x + 1) / 2 - mean) / std.
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) -> (B, region_dim, R, R), (B, code_dim)."""
        levels = self.net(images * self.scale + self.shift)
        return levels[self.level], levels[-1].mean(dim=(2, 3))


class SmallTrunk(Trunk):
    """A light trunk to be trained from scratch on a CPU; 8x8 regions whatever the input size.

    Group norm, so that it computes the same in training and evaluation and for any batch.
    `input_size` is 32 px or a power-of-two multiple.
    """

    region_dim = 128
    code_dim = 128
    region_size = SMALL_REGIONS

    def __init__(self, input_size: int) -> None:
        super().__init__()
        halvings = (input_size // SMALL_REGIONS).bit_length() - 1
        if input_size != SMALL_REGIONS * 2**halvings or halvings < 2:
            raise UserError(
                f"the {SMALL!r} trunk needs input_size 32, 64, 128, ..., got {input_size}"
            )
        stem = [_small_block(3, 32, 1 if halvings == 2 else 2)]
        stem += [_small_block(32, 32, 2) for _ in range(halvings - 3)]
        self.regions = nn.Sequential(
            *stem,
            _small_block(32, 64, 2),
            _small_block(64, 96, 2),
            _small_block(96, 128, 1),
        )
        self.code = _small_block(128, 128, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) -> (B, 128, 8, 8), (B, 128)."""
        regions = self.regions(images)
        return regions, self.code(regions).mean(dim=(2, 3))


def make_trunk(
    name: str,
    input_size: int,
    *,
    pretrained: bool,
    weights_file: str | Path | None,
    normalise: bool = True,
) -> Trunk:
    """The trunk called `name`: "inception_v3", "small" or a timm network with feature levels.

    `normalise`: give a timm network its images with the mean and deviation it was trained on.

    Raises:
        ValueError: an unknown name, or weights asked of "small", which has none.
            Or the weights cannot be downloaded, or the file does not fit.
    """
    path = None if weights_file is None else Path(weights_file)
    if path is not None and not path.is_file():
        raise UserError(f"no file of image encoder weights at {path}")
    if name == SMALL:
        if pretrained or path is not None:
            raise UserError(f"the {SMALL!r} trunk has no pretrained weights; train it instead")
        return SmallTrunk(input_size)
    if name == INCEPTION:
        return InceptionTrunk(input_size, pretrained, path)
    import timm

    if not timm.is_model(name):
        raise UserError(
            f"unknown image encoder trunk {name!r}: use {INCEPTION!r}, {SMALL!r} or a timm network "
            "with feature levels such as 'tf_efficientnet_lite0'"
        )
    return PyramidTrunk(name, input_size, pretrained, path, normalise)


def _valid(size: int, kernel: int, stride: int) -> int:
    return (size - kernel) // stride + 1


def _small_block(in_dim: int, out_dim: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_dim, out_dim, 3, stride, 1, bias=False),
        nn.GroupNorm(8, out_dim),
        nn.LeakyReLU(0.1),
    )


def _create(make: Callable[[bool], Any], name: str, *, download: bool) -> Any:
    # timm's networks share no type that tells what they offer.
    try:
        return make(download)
    except OSError as error:
        import timm

        config = timm.get_pretrained_cfg(INCEPTION_TAG if name == INCEPTION else name)
        place = (config and (config.url or config.hf_hub_id)) or name
        wanted = Path(str(place)).name
        raise UserError(
            f"the pretrained weights of {name} could not be loaded ({type(error).__name__}). Fetch "
            f"{wanted} on a machine with a connection and give it as --image-weights FILE, or "
            "train the trunk from scratch"
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise UserError(f"{path}: cannot be read as weights ({type(error).__name__})") from error


def _require_timm_weights(name: str, path: Path) -> None:
    """Refuse a file without all weights of a timm network, which timm itself would leave random."""
    import timm

    with torch.device("meta"):
        expected = timm.create_model(name, num_classes=0).state_dict()
    missing = [
        key for key in expected.keys() - _read_weights(path).keys() if "num_batches" not in key
    ]
    if missing:
        raise UserError(
            f"{path.name} does not hold the weights of {name}: {len(missing)} of {len(expected)} "
            f"are missing, among them {min(missing)}"
        )


def _load_inception(net: nn.Module, path: Path) -> None:
    state = {
        key: value
        for key, value in _read_weights(path).items()
        if not key.startswith(UNUSED_INCEPTION_KEYS)
    }
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path.name} does not hold torchvision's Inception-v3: {error}") from None
