"""Strict layout accuracy of `scenes`: does everything that a caption states hold of a picture?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from baselines.data.scene_captions import SceneCaption
from baselines.data.scene_content import SceneObject, relation_of
from baselines.metrics.resampling import share
from baselines.metrics.scene_parsing import SMALLEST, FoundObject, objects_of, parse_scene
from baselines.metrics.spec import (
    EvaluationContext,
    ImageSet,
    MetricSpec,
    Score,
    needs_scenes,
    partners,
)

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "layout"

# What a statement is held against: something seen, or the ground truth.
SeenObject = FoundObject | SceneObject


class Tally(NamedTuple):
    """How many statements of a kind were made, and how many hold."""

    right: int
    stated: int


class CaptionCheck(NamedTuple):
    """The statements of one caption by kind. A statement about a missing object does not hold."""

    objects: Tally
    sizes: Tally
    places: Tally
    relations: Tally

    @property
    def holds(self) -> bool:
        """Whether the whole caption is true."""
        return all(tally.right == tally.stated for tally in self)


@dataclass(frozen=True)
class LayoutScore:
    """Shares in [0, 1]; NaN where nothing of the kind was stated.

    `overall`, the score to report, is the share of pictures of which *every* statement of their
    caption holds. `objects` is the share of stated objects that are there in the right colour and
    shape; `sizes`, `places` and `relations` are the shares of those statements that hold.
    """

    overall: float
    objects: float
    sizes: float
    places: float
    relations: float
    pictures: int

    @classmethod
    def of(cls, checks: Iterable[CaptionCheck]) -> LayoutScore:
        """The score of many pictures, gathered over as many batches as one likes."""
        checks = list(checks)
        shares: list[float] = []
        for tallies in zip(*checks, strict=True) if checks else [()] * 4:
            stated = sum(tally.stated for tally in tallies)
            shares.append(sum(tally.right for tally in tallies) / stated if stated else math.nan)
        overall = sum(check.holds for check in checks) / len(checks) if checks else math.nan
        objects, sizes, places, relations = shares
        return cls(overall, objects, sizes, places, relations, len(checks))


def check_caption(caption: SceneCaption, seen: Sequence[SeenObject]) -> CaptionCheck:
    """Hold every statement of `caption` against the objects seen.

    The first object of the stated colour and shape is taken for the one meant; `parse_scene` lists
    the largest first. A place is a cell of the 3 by 3 grid; a relation holds along the axis on
    which two centres lie further apart, so that exactly one of the four holds of two objects.
    """
    meant: dict[int, SeenObject] = {}
    sizes, places = [], []
    for stated in caption.objects:
        for item in seen:
            if (item.colour, item.shape) == (stated.colour, stated.shape):
                meant[stated.index] = item
                break
        match = meant.get(stated.index)
        if stated.size is not None:
            sizes.append(match is not None and match.size == stated.size)
        if stated.place is not None:
            places.append(match is not None and match.place == stated.place)
    relations = [
        i in meant and j in meant and relation_of(meant[i].centre, meant[j].centre) == relation
        for i, relation, j in caption.relations
    ]
    return CaptionCheck(
        Tally(len(meant), len(caption.objects)),
        *(Tally(sum(held), len(held)) for held in (sizes, places, relations)),
    )


def layout_checks(images: Tensor, captions: Sequence[SceneCaption]) -> list[CaptionCheck]:
    """Parse every picture and hold its caption against it; see `layout_accuracy`."""
    if images.ndim != 4 or len(images) != len(captions):
        raise ValueError(
            f"images has shape {tuple(images.shape)} for {len(captions)} captions; "
            "expected (B, 3, S, S) with a caption each"
        )
    return [
        check_caption(caption, parse_scene(image))
        for image, caption in zip(images, captions, strict=True)
    ]


def layout_accuracy(images: Tensor, captions: Sequence[SceneCaption]) -> LayoutScore:
    """How much of what captions of `scenes` state is true of pictures, from their pixels alone.

    Chance is what true pictures score with the captions of other scenes. With up to three objects
    some 3 % of the stated objects are there (one kind in 64, two objects a scene) and 0.2 % of the
    captions hold; with single objects 2.5 % and 0.7 %. `check_caption(caption, scene.objects)`
    tells it exactly for any pairing.

    Args:
        images: (B, 3, S, S) in [-1, 1], S at least 32, real or generated.
        captions: what each was drawn from, by `Scenes.described`.
    """
    return LayoutScore.of(layout_checks(images, captions))


class LayoutMetric:
    """`layout`: what of the captions of scenes is true of the images, from pixels alone."""

    PARTS = ("overall", "objects", "sizes", "places", "relations")

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context = context
        self.partners = partners(context.pairs.class_ids[: images.pairs], context.seed)
        self.checks: list[CaptionCheck] = []
        self.shuffled: list[CaptionCheck] = []

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        for row, components in zip(batch.rows.tolist(), batch.components(), strict=True):
            seen = objects_of(components)
            own, other = (self.context.stated(r)[0] for r in (row, int(self.partners[row])))
            self.checks.append(check_caption(own, seen))
            self.shuffled.append(check_caption(other, seen))

    def scores(self) -> Mapping[str, Score]:
        """Give whole captions that hold, then each kind of statement."""
        control = LayoutScore.of(self.shuffled)
        rows = {}
        for part in self.PARTS:
            held = [
                (check.holds, 1) if part == "overall" else getattr(check, part)
                for check in self.checks
            ]
            right, stated = torch.tensor(held, dtype=torch.float64).reshape(-1, 2).T
            value, error, interval = share(right, stated)
            rows[NAME if part == "overall" else f"{NAME}/{part}"] = Score(
                value,
                error=error,
                interval=interval,
                chance=getattr(control, part),
                count=int(stated.sum()),
            )
        return rows


def needs_large_scenes(context: EvaluationContext) -> str:
    """Say why shapes cannot be read from the pictures."""
    reason = needs_scenes(context)
    if not reason and context.size < SMALLEST:
        return f"images of {context.size} px are too small, it needs {SMALLEST}"
    return reason


SPEC = MetricSpec(
    name=NAME,
    start=LayoutMetric,
    title=lambda part: f"- {part} %" if part else "layout accuracy % ↑ (whole caption)",
    percent=True,
    missing=needs_large_scenes,
    note="Chance of layout accuracy: the same images with each other's captions.",
)
