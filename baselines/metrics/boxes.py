"""Where annotated objects lie in the square images that are evaluated."""

from __future__ import annotations

import math

from PIL import Image

from baselines.data.scene_content import CornerBox
from baselines.data.source import Source


def evaluated_box(source: Source, index: int, size: int) -> CornerBox | None:
    """Carry an image's annotated box through the crop around it, the resize and the centre crop.

    Returns:
        the box in shares of the side of `source.image(index, size)`, clipped to it; None where the
        source has no box for the image.
    """
    record = source.record(index)
    if record is None or record.box is None:
        return None
    x, y, width, height = record.box
    with Image.open(record.path) as image:
        whole = image.size
    # The crop of the box: half its side is three quarters of the longer side, clipped.
    reach = max(1, math.floor(max(width, height) * 0.75))
    middle = math.floor((2 * x + width) / 2), math.floor((2 * y + height) / 2)
    start = [max(0, m - reach) for m in middle]
    stop = [min(full, m + reach) for full, m in zip(whole, middle, strict=True)]
    # Then the shorter side becomes 76/64 of the size, and the centre is cut out.
    extent = [b - a for a, b in zip(start, stop, strict=True)]
    scale = (size * 76 // 64) / min(extent)
    offset = [(round(length * scale) - size) // 2 for length in extent]
    corners = (x, y), (x + width, y + height)
    (left, top), (right, bottom) = (
        [
            min(1.0, max(0.0, ((at - s) * scale - o) / size))
            for at, s, o in zip(corner, start, offset, strict=True)
        ]
        for corner in corners
    )
    return left, top, right, bottom
