"""The pointing game: does a word's layout have its maximum on the object the word describes?

Bounded by 0 and 1, unlike a ratio of means, which a word-blind blob in the middle can win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baselines.metrics.boxes import evaluated_box
from baselines.metrics.resampling import share
from baselines.metrics.spec import (
    CornerBox,
    EvaluationContext,
    ImageSet,
    MetricSpec,
    Score,
    partners,
)

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "pointing"
BLOB = "blob"
BINDING = "binding"
Point = tuple[float, float]
CENTRE: Point = (0.5, 0.5)


@dataclass(frozen=True)
class Pointing:
    """What the words of one picture that describe an object point at.

    words: how many there are; inside: how many have their maximum in the box of the object they
    describe; objects: how many boxes there are; bound, any_: of pictures with several objects, how
    many in the right box and how many in any. A maximum that several cells share counts by the
    share of them inside.
    """

    words: int
    inside: float
    objects: int
    bound: float
    any_: float


def point(layout: Tensor, word_objects: Sequence[int], boxes: Sequence[CornerBox]) -> Pointing:
    """Play the pointing game on one picture.

    Args:
        layout: (T, H, W), each word's map.
        word_objects: the object that each word describes, -1 for none; words beyond T are left
            out.
        boxes: of every object.

    >>> maps = torch.zeros(1, 2, 2)
    >>> maps[0, 0, 1] = 1.0  # the upper right cell
    >>> point(maps, [0], [(0.5, 0.0, 1.0, 0.5), (0.0, 0.0, 0.5, 0.5)])
    Pointing(words=1, inside=1.0, objects=2, bound=1.0, any_=1.0)
    """
    named = [(t, index) for t, index in enumerate(word_objects[: len(layout)]) if index >= 0]
    if not named:
        return Pointing(0, 0.0, len(boxes), 0.0, 0.0)
    maps = layout[[t for t, _ in named]].detach().double().cpu()
    peaks = maps == maps.amax(dim=(1, 2), keepdim=True)
    # A map of NaN has no maximum and points nowhere.
    peaks = peaks.double() / peaks.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    cells = torch.stack([_cells(box, *layout.shape[1:]) for box in boxes])
    share_in = torch.einsum("nhw,bhw->nb", peaks, cells.double())
    right = share_in[torch.arange(len(named)), [index for _, index in named]]
    covered = torch.einsum("nhw,hw->n", peaks, cells.any(dim=0).double())
    several = len(boxes) > 1
    return Pointing(
        len(named),
        float(right.sum()),
        len(boxes),
        float(right.sum()) if several else 0.0,
        float(covered.sum()) if several else 0.0,
    )


def point_in(
    boxes: Sequence[CornerBox], word_objects: Sequence[int], at: tuple[float, float]
) -> float:
    """Count the words whose object's box contains one point (x, y), whatever the layout."""
    chosen = [boxes[index] for index in word_objects if index >= 0]
    return float(sum(x0 <= at[0] < x1 and y0 <= at[1] < y1 for x0, y0, x1, y1 in chosen))


def _cells(box: CornerBox, height: int, width: int) -> Tensor:
    """(H, W) which cells have their centre in a box."""
    left, top, right, bottom = box
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    inside_x, inside_y = (x >= left) & (x < right), (y >= top) & (y < bottom)
    return inside_y[:, None] & inside_x[None, :]


class PointingMetric:
    """`pointing/STAGE`, `pointing/STAGE/binding`, and the line of a blob in the middle."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context, self.images = context, images
        self.partners = partners(context.pairs.class_ids[: images.pairs], context.seed)
        self.found: dict[str, list[Pointing]] = {}
        self.shuffled: dict[str, list[Pointing]] = {}
        self.blob: list[tuple[float, int]] = []
        self.boxes: dict[int, CornerBox | None] = {}

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        for place, row in enumerate(batch.rows.tolist()):
            target, other = self.target(row), self.target(int(self.partners[row]))
            if target is None or other is None:
                continue
            words, boxes = target
            named = sum(index >= 0 for index in words)
            self.blob.append((point_in(boxes, words, CENTRE), named))
            for stage, layout in batch.layouts.items():
                self.found.setdefault(stage, []).append(point(layout[place], words, boxes))
                control = point(layout[place], _elsewhere(words, other[0]), other[1])
                self.shuffled.setdefault(stage, []).append(control)

    def target(self, row: int) -> tuple[Sequence[int], Sequence[CornerBox]] | None:
        """Give what each word of a pair describes, and the boxes; None where no box is known."""
        context = self.context
        if context.has_scenes:
            caption, boxes = context.stated(row)
            return caption.word_objects[: context.pairs.ids.shape[1]], boxes
        # Of other data the one object is known, of real images alone: every word is held to it.
        if not self.images.real:
            return None
        if row not in self.boxes:
            index = int(context.pairs.images[row])
            self.boxes[row] = evaluated_box(context.source, index, context.size)
        box = self.boxes[row]
        return None if box is None else ([0] * int(context.pairs.lengths[row]), [box])

    def scores(self) -> Mapping[str, Score]:
        """Give the rows of every stage, or none where there are no layouts."""
        rows: dict[str, Score] = {}
        for stage, found in self.found.items():
            inside = _share([(p.inside, p.words) for p in found])
            control = _share([(p.inside, p.words) for p in self.shuffled[stage]])
            rows[f"{NAME}/{stage}"] = replace(inside, chance=control.value)
            bound = _share([(p.bound, p.any_) for p in found])
            by_lot = _share([(p.any_ / max(p.objects, 1), p.any_) for p in found])
            rows[f"{NAME}/{stage}/{BINDING}"] = replace(bound, chance=by_lot.value)
        if self.found:
            rows[f"{NAME}/{BLOB}"] = _share(self.blob)
        return rows


def _share(counts: Sequence[tuple[float, float]]) -> Score:
    right, stated = torch.tensor(counts, dtype=torch.float64).reshape(-1, 2).T
    value, error, interval = share(right, stated)
    return Score(value, error=error, interval=interval, count=round(float(stated.sum())))


def _elsewhere(words: Sequence[int], other: Sequence[int]) -> list[int]:
    """Let each word that describes an object describe one of another caption instead."""
    theirs = [index for index in other if index >= 0]
    turns = iter(range(len(words)))
    return [theirs[next(turns) % len(theirs)] if w >= 0 and theirs else -1 for w in words]


def _title(part: str) -> str:
    stage, _, kind = part.partition("/")
    if kind:
        return "- binding % (the right one of several objects)"
    if stage == BLOB:
        return "- a blob in the middle of every picture, %"
    return f"pointing game % ↑ ({stage})"


def _missing(context: EvaluationContext) -> str:
    if context.has_scenes or evaluated_box(context.source, 0, context.size) is not None:
        return ""
    return f"it needs boxes of objects, {context.source.name} has none"


SPEC = MetricSpec(
    name=NAME,
    start=PointingMetric,
    title=_title,
    percent=True,
    missing=_missing,
    uses_layouts=True,
    note=(
        "Chance of the pointing game: the same layouts against the boxes of another caption's "
        "picture; of binding: any of the picture's objects by lot."
    ),
)
