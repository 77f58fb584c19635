"""From an image file to a training or evaluation image."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from baselines.data.reading import require_regular

# Left, top, width, height in pixels, as CUB and `metadata.jsonl` give boxes.
Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]


# What images are kept in. Other formats that Pillow knows are read by programs of their own
# (PostScript by Ghostscript) or are never photographs.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI",
    "TGA", "TIFF", "WEBP",
)  # fmt: skip
# 8192 × 8192; as RGB they take 192 MiB. A file of half a megabyte can claim far more.
MAX_PIXELS = 2**26
# Resizing the shorter side of a line of pixels would make the longer one astronomic.
MAX_ASPECT = 200


@contextmanager
def opened(file: str | Path | BinaryIO) -> Iterator[Image.Image]:
    """Open an image whose format and size are known and allowed; nothing is decoded yet.

    Raises:
        OSError: missing, no regular file, empty, or no image of `FORMATS`.
        ValueError: more than `MAX_PIXELS`, one side more than `MAX_ASPECT` times the other, or
            floating numbers.
    """
    if isinstance(file, (str, Path)):
        require_regular(Path(file))
        if not Path(file).stat().st_size:
            raise OSError("the file is empty")
    with _header(file) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"it has {width} × {height} pixels, more than the {MAX_PIXELS:,} that are read: "
                "scale it down"
            )
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ValueError(
                f"it has {width} × {height} pixels: one side is more than {MAX_ASPECT} times the "
                "other"
            )
        if image.mode == "F":
            raise ValueError(
                "it holds floating numbers, whose range nobody tells: save it with 8 or 16 bits"
            )
        yield image


def _header(file: str | Path | BinaryIO) -> Image.Image:
    """Open an image; Pillow's own, higher limit on pixels is told in the words of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=_known_formats())
    except Image.DecompressionBombError:
        raise ValueError(
            f"it has more than the {MAX_PIXELS:,} pixels that are read: scale it down"
        ) from None


@functools.cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_rgb(file: str | Path | BinaryIO) -> Image.Image:
    """Decode a whole image as RGB; its EXIF orientation is ignored, as in the originals.

    Raises:
        OSError: the file is missing, truncated or no image.
        ValueError: it is too large or of floating numbers, see `opened`.
    """
    with opened(file) as image:
        if image.mode.startswith("I"):
            # Pillow clips 16-bit grey at 255 instead of scaling it.
            return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
        return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def decoded_size(file: str | Path | BinaryIO) -> tuple[int, int]:
    """Width and height of an image after decoding all of it; raises as `open_rgb` does."""
    with opened(file) as image:
        size = image.size
        # JPEG at an eighth of its size: all of the file is still read, the transforms are saved.
        image.draft("RGB", (1, 1))
        image.load()
    return size


def box_crop(image: Image.Image, box: Box) -> Image.Image:
    """Crop the square around a box, clipped to the image.

    Half its side is ⌊0.75 · max(width, height)⌋, so that a bird fills some two thirds of it, as in
    the originals.
    """
    return image.crop(crop_bounds(image.width, image.height, box))


def crop_bounds(width: int, height: int, box: Box) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what `box_crop` keeps of an image of these sides."""
    x, y, box_width, box_height = box
    radius = max(1, math.floor(max(box_width, box_height) * 0.75))
    centre_x, centre_y = math.floor((2 * x + box_width) / 2), math.floor((2 * y + box_height) / 2)
    return (
        max(0, centre_x - radius),
        max(0, centre_y - radius),
        min(width, centre_x + radius),
        min(height, centre_y + radius),
    )


def shorter_side(size: int) -> int:
    """What the shorter side of an image is resized to before a square of `size` is cropped."""
    return size * 76 // 64


def scaled(image: Image.Image, size: int) -> Pixels:
    """Resize the shorter side to ⌊size · 76/64⌋: (H, W, 3) uint8, from which squares are cut."""
    return np.asarray(transforms.resize(image, [shorter_side(size)]))


def to_square(image: Image.Image, size: int, rng: torch.Generator | None) -> Tensor:
    """`square` of an image `scaled` for it."""
    return square(scaled(image, size), size, rng)


def square(pixels: Pixels, size: int, rng: torch.Generator | None) -> Tensor:
    """Crop a square from (H, W, 3) uint8, and flip it while training.

    With `rng` the crop is uniform and the flip has probability ½, drawn in the order top,
    left, flip; without one it is the centre, unflipped. Returns (3, size, size) uint8.
    """
    slack_y, slack_x = pixels.shape[0] - size, pixels.shape[1] - size
    if rng is None:
        top, left, flip = slack_y // 2, slack_x // 2, False
    else:
        top, left, side = (
            int(torch.randint(choices, (), generator=rng))
            for choices in (slack_y + 1, slack_x + 1, 2)
        )
        flip = side == 1
    cut = pixels[top : top + size, left : left + size]
    # One copy does all: cutting, turning, and the order of a tensor's axes.
    ordered = (cut[:, ::-1] if flip else cut).transpose(2, 0, 1)
    return torch.from_numpy(np.array(ordered, order="C"))
