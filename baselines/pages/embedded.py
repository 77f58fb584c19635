"""Pictures as text inside a page, so that the page is one file."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

# From this side on a photograph is several times smaller as JPEG, and its pixels are not looked at
# one by one.
LARGE = 128
QUALITY = 90


def embedded(picture: Image.Image | np.ndarray, *, exact: bool = False) -> str:
    """A picture as a `data:` address.

    Args:
        picture: or pixels (H, W, 3) in 0..255, or (H, W, 4) in [0, 1] as of `layout_heat`. Exact,
            but for opaque pictures of more than 128 pixels a side.
        exact: those too, and at once rather than small: for pages that somebody waits for.
    """
    if isinstance(picture, np.ndarray):
        scale = 255 if picture.shape[-1] == 4 else 1
        picture = Image.fromarray((picture * scale).round().clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    if not exact and picture.mode == "RGB" and max(picture.size) > LARGE:
        picture.save(file, "JPEG", quality=QUALITY)
        kind = "jpeg"
    else:
        picture.save(file, "PNG", optimize=not exact)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
