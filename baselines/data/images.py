"""From an image file to a training or evaluation image."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

# Left, top, width, height in pixels, as CUB and `metadata.jsonl` give boxes.
Box = tuple[float, float, float, float]


def open_rgb(path: str | Path) -> Image.Image:
    """Decode a whole image file as RGB; its EXIF orientation is ignored, as in the originals.

    Raises:
        OSError: the file is missing, truncated or no image.
    """
    with Image.open(path) as image:
        if image.mode.startswith("I"):
            # Pillow clips 16-bit grey at 255 instead of scaling it.
            return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
        if image.mode == "P":
            image = image.convert("RGBA")
        return image.convert("RGB")


def box_crop(image: Image.Image, box: Box) -> Image.Image:
    """Crop the square around a box, clipped to the image.

    Half its side is ⌊0.75 · max(width, height)⌋, so that a bird fills some two thirds of it, as in
    the originals.
    """
    x, y, width, height = box
    radius = max(1, math.floor(max(width, height) * 0.75))
    centre_x, centre_y = math.floor((2 * x + width) / 2), math.floor((2 * y + height) / 2)
    return image.crop(
        (
            max(0, centre_x - radius),
            max(0, centre_y - radius),
            min(image.width, centre_x + radius),
            min(image.height, centre_y + radius),
        )
    )


def to_square(image: Image.Image, size: int, rng: torch.Generator | None) -> Tensor:
    """Resize the shorter side to ⌊size · 76/64⌋, crop a square, and flip while training.

    With `rng` the crop is uniform and the flip has probability ½, drawn in the order top,
    left, flip; without one it is the centre, unflipped. Returns (3, size, size) uint8.
    """
    resized = transforms.resize(image, [size * 76 // 64])
    slack_y, slack_x = resized.height - size, resized.width - size
    if rng is None:
        top, left, flip = slack_y // 2, slack_x // 2, False
    else:
        top, left, side = (
            int(torch.randint(choices, (), generator=rng))
            for choices in (slack_y + 1, slack_x + 1, 2)
        )
        flip = side == 1
    square = transforms.crop(resized, top, left, size, size)
    if flip:
        square = transforms.horizontal_flip(square)
    return transforms.pil_to_tensor(square)
