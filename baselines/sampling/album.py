"""Writes drawn images as files: single pictures, captioned pages, overlays, comparisons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from baselines.pictures.grids import (
    OverlayRow,
    captioned_grid,
    overlay_sheet,
    side_by_side,
    table,
    to_picture,
)
from baselines.pictures.sheet import CaptionText, save_picture
from baselines.sampling.pipeline import Drawings
from baselines.sampling.variations import mark_changes, mark_unknown

SLUG_LENGTH = 60
PAGE = 64


@dataclass
class Album:
    """A folder of pictures.

    Args:
        folder: created when the first file is written.
        singles: write every image as a file of its own.
        sheets: write pages and comparisons of many images.
        all_stages: also the smaller images of every drawing.
        overlays: for every drawing a sheet of its layouts, word by word.
    """

    folder: Path
    singles: bool = True
    sheets: bool = True
    all_stages: bool = False
    overlays: bool = False
    files: list[Path] = field(default_factory=list)
    pages: list[Path] = field(default_factory=list)
    _slugs: dict[str, str] = field(default_factory=dict)
    _cells: list[tuple[Tensor, CaptionText]] = field(default_factory=list)
    _turned: int = 0

    def slug(self, text: str) -> str:
        """A name for the files of `text`: readable, safe, and no other caption's."""
        if text not in self._slugs:
            plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:SLUG_LENGTH].strip("-")
            plain = plain or "caption"
            taken, number = set(self._slugs.values()), 2
            name = plain
            while name in taken:
                name, number = f"{plain}-{number}", number + 1
            self._slugs[text] = name
        return self._slugs[text]

    def add(self, drawings: Drawings) -> None:
        """Write what is written of every drawing."""
        for row, (caption, sample) in enumerate(
            zip(drawings.captions, drawings.samples, strict=True)
        ):
            name = f"{self.slug(caption.text)}_{sample}"
            images = [stage[row] for stage in drawings.images]
            self.single(name, images)
            if self.overlays and drawings.layouts:
                rows = [
                    OverlayRow(f"{layout.shape[-1]} × {layout.shape[-1]}", images[-1], layout[row])
                    for layout in drawings.layouts
                ]
                path = self.folder / f"{name}_layout.png"
                overlay_sheet(rows, caption.words, path, title=mark_unknown(caption))
                self.pages.append(path)

    def single(self, name: str, images: Sequence[Tensor]) -> None:
        """One drawing (stages of (3, S, S)) as files."""
        if not self.singles:
            return
        for image in images if self.all_stages else images[-1:]:
            size = f"_{image.shape[-1]}px" if self.all_stages else ""
            path = self.folder / f"{name}{size}.png"
            save_picture(to_picture(image), path)
            self.files.append(path)

    def cells(self, drawings: Drawings) -> list[Tensor]:
        """What stands for every drawing on a sheet: its last image, or all stages in a row."""
        rows = range(len(drawings))
        stages = drawings.images if self.all_stages else drawings.images[-1:]
        return [side_by_side([stage[row] for stage in stages]) for row in rows]

    def paste(self, image: Tensor, caption: CaptionText, columns: int) -> None:
        """Put an image on the page under way; a full page is written."""
        self._cells.append((image, caption))
        if len(self._cells) >= PAGE - PAGE % columns:
            self.turn(columns)

    def turn(self, columns: int) -> None:
        """Write the page under way, if there is anything on it."""
        if self.sheets and self._cells:
            self._turned += 1
            path = self.folder / f"grid-{self._turned:03d}.png"
            images, captions = zip(*self._cells, strict=True)
            captioned_grid(images, captions, path, columns=columns)
            self.pages.append(path)
        self._cells.clear()

    def edits(self, drawings: Drawings, samples: int) -> None:
        """A caption and its changed versions side by side, the changes marked, a row per noise."""
        cells = self.cells(drawings)
        rows = [cells[sample::samples] for sample in range(samples)]
        base, *changed = drawings.captions[::samples]
        above: list[CaptionText] = [mark_unknown(base)]
        above += [mark_changes(base.text, caption.text) for caption in changed]
        self.comparison("edit", rows, [f"noise {sample}" for sample in range(samples)], above)

    def comparison(
        self,
        name: str,
        rows: Sequence[Sequence[Tensor]],
        labels: Sequence[str],
        above: Sequence[CaptionText] | None = None,
        title: CaptionText = "",
    ) -> None:
        """One sheet of labelled rows."""
        if self.sheets:
            path = self.folder / f"{name}.png"
            table(rows, path, labels=labels, above=above, title=title)
            self.pages.append(path)
