"""Everything that is drawn: grids, captioned sheets, word-layout overlays and loss curves.

Images are tensors in [-1, 1]; files are PNGs, written whole or not at all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from baselines.pictures.sheet import (
    DPI,
    LINE,
    TEXT,
    CaptionText,
    Sheet,
    Word,
    save_figure,
    text_width,
    words_of,
    wrap,
)

GAP = 6
SMALL = 7.0
MIN_SIDE = 144
WORDS_PER_LINE = 9


class OverlayRow(NamedTuple):
    """One source of layouts: image (3, H, W) in [-1, 1], layout (T, h, w) non-negative."""

    label: str
    image: Tensor
    layout: Tensor


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] to 0..255 by rounding and clamping (not truncation); NaN becomes 0."""
    scaled = (images.detach().float().nan_to_num(nan=-1.0) + 1) * 127.5
    return scaled.round().clamp(0, 255).to(torch.uint8)


def to_picture(image: Tensor, side: int = 0) -> Image.Image:
    """One image (3, H, W) in [-1, 1] as a PIL image of its own size, or `side` pixels high."""
    return Image.fromarray(_enlarged(image, side, exact=True) if side else _pixels(image))


def image_grid(images: Tensor, columns: int, *, padding: int = 2) -> Image.Image:
    """Images (B, 3, H, W) in [-1, 1] row by row on white, at their own size."""
    grid = make_grid(to_bytes(images).cpu(), nrow=columns, padding=padding, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def side_by_side(images: Sequence[Tensor]) -> Tensor:
    """Stages (3, S, S) of one image as one (3, H, W), all enlarged to the side of the largest."""
    side = max(MIN_SIDE, *(image.shape[-1] for image in images))
    parts: list[Tensor] = []
    for image in images:
        if parts:
            parts.append(torch.ones(3, side, GAP))
        scaled = F.interpolate(image[None].float().cpu(), size=(side, side), mode="bicubic")
        parts.append(scaled[0])
    return torch.cat(parts, dim=2)


def attempt(draw: Callable[[], object], what: str) -> bool:
    """Run `draw`; a failure is logged under the name `what` and never stops what is under way."""
    try:
        draw()
    except Exception:
        logging.getLogger(__name__).exception("%s could not be drawn; going on without", what)
        return False
    return True


def captioned_grid(
    images: Sequence[Tensor] | Tensor,
    captions: Sequence[CaptionText],
    path: Path,
    *,
    columns: int = 4,
) -> None:
    """Images (3, H, W) in [-1, 1], each with its caption wrapped below it.

    Raises:
        ValueError: no image, or not one caption per image.
    """
    if len(images) == 0 or len(images) != len(captions):
        raise ValueError(
            f"{len(images)} images and {len(captions)} captions: expected one caption per image"
        )
    cells = [_enlarged(image) for image in images]
    columns = min(columns, len(cells))
    width = max(cell.shape[1] for cell in cells)
    set_captions = [wrap(words_of(caption), width) for caption in captions]
    strips = []
    for start in range(0, len(cells), columns):
        row = range(start, min(start + columns, len(cells)))
        height = max(cells[i].shape[0] for i in row)
        lines = max(len(set_captions[i]) for i in row)
        strips.append((row, height, height + lines * LINE + 2 * GAP))
    sheet = Sheet(columns * (width + GAP) + GAP, sum(strip[2] for strip in strips) + GAP)
    top = GAP
    for row, height, total in strips:
        for place, i in enumerate(row):
            left = GAP + place * (width + GAP)
            sheet.paste(cells[i], left, top)
            sheet.write(set_captions[i], left, top + height + 2)
        top += total
    sheet.save(path)


def table(
    rows: Sequence[Sequence[Tensor]],
    path: Path,
    *,
    labels: Sequence[str] | None = None,
    above: Sequence[CaptionText] | None = None,
    below: Sequence[CaptionText] | None = None,
    title: CaptionText = "",
) -> None:
    """Rows of images (3, H, W) in [-1, 1] with labels on the left, captions above and below.

    Images of different sizes are enlarged to the largest of all.
    """
    side = max(image.shape[-1] for row in rows for image in row)
    cells = [[_enlarged(image, side) for image in row] for row in rows]
    height, width = cells[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    margin = GAP + (max(text_width(label, TEXT, "plain") for label in labels) if labels else 0)
    margin += GAP if labels else 0
    full = margin + columns * (width + GAP)
    heading = wrap(words_of(title), full - 2 * GAP) if title else []
    over = [wrap(words_of(caption), width) for caption in above or ()]
    under = [wrap(words_of(caption), width) for caption in below or ()]
    head = len(heading) * LINE + max(map(len, over), default=0) * LINE + GAP
    foot = max(map(len, under), default=0) * LINE + GAP
    sheet = Sheet(full, head + len(rows) * (height + GAP) + foot)
    sheet.write(heading, GAP, GAP // 2)
    for place, row in enumerate(cells):
        top = head + place * (height + GAP)
        if labels:
            sheet.write([[(0, Word(labels[place]))]], GAP, top + height // 2 - LINE // 2)
        for column, cell in enumerate(row):
            sheet.paste(cell, margin + column * (width + GAP), top)
    for column in range(columns):
        left = margin + column * (width + GAP)
        if over:
            sheet.write(over[column], left, head - len(over[column]) * LINE - 2)
        if under:
            sheet.write(under[column], left, head + len(rows) * (height + GAP))
    sheet.save(path)


def training_grid(
    real: Tensor, fake: Sequence[Tensor], captions: Sequence[str], path: Path, *, limit: int = 8
) -> None:
    """The first `limit` pairs: the real images, what every stage drew, the captions below.

    Args:
        real: (B, 3, S, S) in [-1, 1].
        fake: per stage (B, 3, s, s), smallest first.
        captions: B of them.
        path: a PNG.
        limit: at most so many columns.
    """
    rows = [list(real[:limit])] + [list(stage[:limit]) for stage in fake]
    labels = ["real"] + [f"{stage.shape[-1]} px" for stage in fake]
    table(rows, path, labels=labels, below=captions[:limit])


def layout_heat(layout: Tensor, *, side: int = 0, highest: float = 0.0) -> np.ndarray:
    """The heat of every word's layout as a transparent picture, to be laid over another.

    Args:
        layout: (T, h, w), non-negative.
        side: enlarges it bicubically to this side; 0 leaves its own.
        highest: the value drawn brightest; 0 takes the largest of `layout`, or three times its
            mean if that is more, so that an undecided layout looks dim everywhere.

    Returns:
        (T, h, w, 4) in [0, 1]: colour, and how much it covers.
    """
    layout = layout.detach().float().cpu().nan_to_num()
    highest = highest or max(float(layout.max()), 3 * float(layout.mean())) or 1.0
    if side:
        enlarged = F.interpolate(layout[None], size=(side, side), mode="bicubic")
        layout = enlarged[0]
    # Weak heat is lifted: beside a word that claims its region, the others still show.
    share = (layout / highest).clamp(0, 1).numpy() ** 0.75
    heat = matplotlib.colormaps["inferno"](share)
    heat[..., 3] = 0.85 * share
    return np.asarray(heat)


def change_heat(before: Tensor, after: Tensor) -> np.ndarray:
    """Where a picture changed, as heat like that of a layout.

    Args:
        before: (3, H, W) in [-1, 1].
        after: the same.

    Returns:
        (H, W, 4) in [0, 1]; brightest where the colour changed by half of all it could, on average
        over the channels.
    """
    change = (after.float() - before.float()).abs().mean(dim=0) / 2
    return np.asarray(layout_heat(change[None], highest=0.5)[0])


def dimmed(image: Tensor, side: int) -> np.ndarray:
    """(side, side, 3) of a picture (3, H, W) in [-1, 1], dark and grey enough to show heat on."""
    picture = _enlarged(image, side, exact=True).astype(np.float32)
    return 0.35 * picture + 0.2 * picture.mean(axis=2, keepdims=True)


def layout_overlay(image: Tensor, layout: Tensor, side: int, *, highest: float = 0.0) -> np.ndarray:
    """The dimmed picture with the heat of every word's layout on top.

    Args:
        image: (3, H, W) in [-1, 1].
        layout: (T, h, w), non-negative.
        side: of the result in pixels.
        highest: as of `layout_heat`.

    Returns:
        (T, side, side, 3) uint8.
    """
    heat = layout_heat(layout, side=side, highest=highest)
    colours, cover = heat[..., :3], heat[..., 3:]
    below = dimmed(image, side)
    return np.round(below * (1 - cover) + 255 * colours * cover).astype(np.uint8)


def share_and_peak(channel: Tensor) -> str:
    """What stands below a word's overlay: the mean of its layout (h, w), and the maximum."""
    channel = channel.float()
    return f"mean {100 * channel.mean():.0f} %  peak {100 * channel.max():.0f} %"


def overlay_sheet(
    rows: Sequence[OverlayRow], words: Sequence[str], path: Path, *, title: CaptionText = ""
) -> None:
    """For every word, where each source's layout puts it, the sources one below the other.

    The colour scale is common to a row, see `layout_overlay`; below every cell stand the mean over
    the picture (the word's share of all regions) and the peak.

    Raises:
        ValueError: no rows or words, or a layout with fewer channels than there are words.
    """
    if not rows or not words:
        raise ValueError(f"{len(rows)} rows and {len(words)} words: expected at least one of each")
    for row in rows:
        if len(row.layout) < len(words):
            raise ValueError(
                f"{row.label}: the layout has {len(row.layout)} channels for {len(words)} words"
            )
    side = MIN_SIDE
    margin = 2 * GAP + max(text_width(row.label, TEXT, "plain") for row in rows)
    columns = math.ceil(len(words) / math.ceil(len(words) / WORDS_PER_LINE))
    width = margin + (columns + 1) * (side + GAP)
    heading = wrap(words_of(title), width - 2 * GAP) if title else []
    head = len(heading) * LINE + GAP
    block = LINE + len(rows) * (side + LINE + GAP) + GAP
    sheet = Sheet(width, head + math.ceil(len(words) / columns) * block)
    sheet.write(heading, GAP, GAP // 2)
    overlays = [layout_overlay(row.image, row.layout[: len(words)], side) for row in rows]
    for number, word in enumerate(words):
        line, place = divmod(number, columns)
        left = margin + (place + 1) * (side + GAP)
        sheet.write(wrap([Word(word)], side)[:1], left, head + line * block)
        for r, row in enumerate(rows):
            top = head + line * block + LINE + r * (side + LINE + GAP)
            if place == 0:
                sheet.write([[(0, Word(row.label))]], GAP, top + side // 2 - LINE // 2)
                sheet.paste(_enlarged(row.image, side, exact=True), margin, top)
            sheet.paste(overlays[r][number], left, top)
            numbers = share_and_peak(row.layout[number])
            sheet.write([[(0, Word(numbers, "note"))]], left, top + side + 1, size=SMALL)
    sheet.save(path)


def curves(
    stats: Sequence[Mapping[str, Any]], path: Path, panels: Mapping[str, str] | None = None
) -> None:
    """Every term of `stats.jsonl` against the step, those of one panel together.

    `panels` gives the panel of a term by name; any other is drawn with those that share what
    stands before the last "/" of its name.

    Raises:
        ValueError: no line holds a number besides step and images.
    """
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in stats:
        for name, value in line.items():
            if name in ("step", "images") or not isinstance(value, int | float):
                continue
            group, _, term = name.rpartition("/")
            panel = (panels or {}).get(name) or group or name
            # Where every panel is of one phase, its name would only be repeated.
            term = term if panel.startswith(group) and group else name
            points = groups.setdefault(panel, {}).setdefault(term, [])
            points.append((line["step"], value))
    if not groups:
        raise ValueError("nothing to draw: no line of the statistics holds a number")
    columns = min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * lines), dpi=DPI, layout="constrained")
    for place, (group, terms) in enumerate(groups.items()):
        axes = figure.add_subplot(lines, columns, place + 1)
        for number, (term, points) in enumerate(terms.items()):
            steps, values = zip(*points, strict=True)
            style = ("-", "--", ":")[number // 10 % 3]
            marker = "o" if len(points) == 1 else None
            axes.plot(steps, values, label=term, linewidth=1.2, linestyle=style, marker=marker)
        sizes = [abs(v) for points in terms.values() for _, v in points if v and math.isfinite(v)]
        if sizes and max(sizes) > 50 * float(np.median(sizes)):
            # Terms of one objective differ by orders of magnitude, and some change sign.
            axes.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.1)))
        axes.set_title(group, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3, linewidth=0.5)
        if len(terms) > 1:
            axes.legend(fontsize=6.5, ncols=1 + len(terms) // 8, framealpha=0.6)
        axes.set_xlabel("step", fontsize=8)
    save_figure(figure, path)


def _pixels(image: Tensor) -> np.ndarray:
    return to_bytes(image).permute(1, 2, 0).cpu().numpy()


def _enlarged(image: Tensor, side: int = 0, *, exact: bool = False) -> np.ndarray:
    """Pixels of `image` with a height of at least `side` and MIN_SIDE; exactly `side` on demand."""
    pixels = _pixels(image)
    height, width = pixels.shape[:2]
    wanted = side if exact else max(height, side, MIN_SIDE)
    if wanted == height:
        return pixels
    size = (round(width * wanted / height), wanted)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
