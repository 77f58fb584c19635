"""Is what a caption says where the caption says it? In pictures, and in the layouts of words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from baselines.data.scene_captions import SceneCaption
from baselines.data.scene_content import CornerBox, SceneObject, relation_of
from baselines.metrics.scene_parsing import FoundObject, parse_scene

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
        shares = []
        for tallies in zip(*checks, strict=True) if checks else [()] * 4:
            stated = sum(tally.stated for tally in tallies)
            shares.append(sum(tally.right for tally in tallies) / stated if stated else math.nan)
        overall = sum(check.holds for check in checks) / len(checks) if checks else math.nan
        return cls(overall, *shares, pictures=len(checks))


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


def layout_localisation(
    layouts: Tensor, word_objects: Sequence[Sequence[int]], boxes: Sequence[Sequence[CornerBox]]
) -> float:
    """How much of a word's layout lies on the object it describes, against its average.

    For each word that names an object: the mean of its layout inside the object's box divided by
    its mean over the picture, averaged over all such words. 1 is no localisation at all (also the
    value taken for a layout that is zero everywhere); the most a word can have is the inverse of
    its box's share of the picture.

    Args:
        layouts: (B, T, H, W), not negative: Θ of generated or Θ* of real images.
        word_objects: per picture `SceneCaption.word_objects`; words beyond T are left out.
        boxes: per picture the boxes of all its objects, `Scene.boxes`.

    Raises:
        ValueError: the batch sizes differ, or no word describes an object.
    """
    if layouts.ndim != 4 or not len(layouts) == len(word_objects) == len(boxes):
        raise ValueError(
            f"layouts has shape {tuple(layouts.shape)} for {len(word_objects)} captions and "
            f"{len(boxes)} lists of boxes; expected (B, T, H, W) with one of each per picture"
        )
    length = layouts.shape[1]
    named = [
        (b, t, boxes[b][index])
        for b, indices in enumerate(word_objects)
        for t, index in enumerate(indices[:length])
        if index >= 0
    ]
    if not named:
        raise ValueError(f"none of the first {length} words of any caption describes an object")
    picture, word, box = zip(*named, strict=True)
    chosen = layouts[list(picture), list(word)].detach().double().cpu()
    corners = torch.tensor(box, dtype=torch.float64)
    rows = _cover(corners[:, 1], corners[:, 3], chosen.shape[1])
    columns = _cover(corners[:, 0], corners[:, 2], chosen.shape[2])
    inside = torch.einsum("nhw,nh,nw->n", chosen, rows, columns)
    inside = inside / (rows.sum(dim=1) * columns.sum(dim=1))
    average = chosen.mean(dim=(1, 2))
    ratio = torch.where(average == 0, 1.0, inside / average)
    return float(ratio.mean())


def _cover(start: Tensor, stop: Tensor, cells: int) -> Tensor:
    """(n, cells): how much of each of `cells` equal cells of [0, 1] lies within start..stop."""
    low = torch.arange(cells, dtype=torch.float64) / cells
    high = low + 1 / cells
    overlap = torch.minimum(high, stop[:, None]) - torch.maximum(low, start[:, None])
    return overlap.clamp(min=0) * cells
