"""A page of pixels and text: what the pictures of a run are composed on.

Pixels are pasted as they are, so that an image is never resampled behind its author's back; text
is set in matplotlib's own font on the Agg canvas, without pyplot, a display or a font file.
"""

from __future__ import annotations

import io
import math
import warnings
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image

from baselines.files import write_bytes

DPI = 100
LINE = 17
BASELINE = 12
TEXT = 9.0
COLOURS = {"plain": "#202020", "new": "#c00020", "gone": "#909090", "note": "#606060"}


class Word(NamedTuple):
    """A word and how it is set: "plain", "new" (bold, red), "gone" (struck), "note" (grey)."""

    text: str
    mark: str = "plain"


CaptionText = str | Sequence[Word]
Line = Sequence[tuple[float, Word]]


class Sheet:
    """A white page: pixels that are pasted as they are, and text on top."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.full((height, width, 3), 255, np.uint8)
        self.texts: list[tuple[float, float, Word, float]] = []

    def paste(self, pixels: np.ndarray, left: int, top: int) -> None:
        """Put (H, W, 3) uint8 at a place."""
        height, width = pixels.shape[:2]
        self.pixels[top : top + height, left : left + width] = pixels

    def write(self, lines: Sequence[Line], left: int, top: int, size: float = TEXT) -> None:
        """Set lines of (offset, word), as `wrap` returns them."""
        for number, line in enumerate(lines):
            for offset, word in line:
                self.texts.append((left + offset, top + number * LINE, word, size))

    def save(self, path: Path) -> None:
        """Render and write the page."""
        height, width = self.pixels.shape[:2]
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        for left, top, word, size in self.texts:
            figure.text(
                left / width,
                1 - (top + BASELINE) / height,
                word.text,
                fontsize=size,
                color=COLOURS[word.mark],
                fontweight=_weight(word.mark),
                verticalalignment="baseline",
                parse_math=False,
            )
            if word.mark == "gone":
                middle = min(height - 1, int(top + BASELINE - 4))
                right = int(left + text_width(word.text, size, word.mark))
                self.pixels[middle, int(left) : right] = 0x90
        figure.figimage(self.pixels, origin="upper")
        save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Render `figure` as an RGB image and write it as a PNG, atomically."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A glyph that the font lacks is drawn as a box; that is no reason to complain.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        canvas.draw()
    save_picture(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()), path)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, atomically."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def words_of(caption: CaptionText) -> list[Word]:
    """The words of a caption, plain ones where it is given as text."""
    if isinstance(caption, str):
        return [Word(text) for text in caption.split()]
    return list(caption)


def _weight(mark: str) -> str:
    return "bold" if mark == "new" else "normal"


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, mark: str) -> int:
    """Width in pixels on a sheet."""
    renderer = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()
    font = FontProperties(size=size, weight=_weight(mark))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        return math.ceil(renderer.get_text_width_height_descent(text, font, False)[0])


def _cut(word: Word, width: int) -> str:
    """Cut a word to its longest beginning that fits with an ellipsis, or to its first letter.

    Beginnings of doubling length are measured, then halves: letters that are cut off anyway, be
    they a million, are not.
    """
    text, end = word.text, 1
    while end < len(text) and text_width(text[:end], TEXT, word.mark) <= width:
        end *= 2
    if end >= len(text) and text_width(text, TEXT, word.mark) <= width:
        return text
    if len(text) < 3:
        return text[:1]

    def too_wide(length: int) -> bool:
        return text_width(text[:length].rstrip("…") + "…", TEXT, word.mark) > width

    # The first beginning that is too wide; the one before it is the longest that is not.
    first = bisect_left(range(1, min(end, len(text))), True, key=too_wide) + 1
    return text[: first - 1].rstrip("…") + "…" if first > 1 else text[:1]


def wrap(words: Sequence[Word], width: int) -> list[list[tuple[float, Word]]]:
    """Break `words` into lines of at most `width` pixels; a word wider than that is cut short."""
    space = text_width("n n", TEXT, "plain") - text_width("nn", TEXT, "plain")
    lines: list[list[tuple[float, Word]]] = [[]]
    offset = 0
    for word in words:
        text = _cut(word, width)
        extent = text_width(text, TEXT, word.mark)
        if offset and offset + extent > width:
            lines.append([])
            offset = 0
        lines[-1].append((offset, Word(text, word.mark)))
        offset += extent + space
    return lines
