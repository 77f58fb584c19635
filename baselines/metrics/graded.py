"""Graded layout of `scenes`: how far a picture is what its caption states, statement by statement.

Strict layout accuracy asks for sharp, perfect objects and stays near 0 for long; here an object
counts by its colour, and place, shape, size and relations are asked of that. All of it is read
from pixels alone, and stands blur and JPEG at 32 px.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baselines.data.scene_captions import SceneCaption, StatedObject
from baselines.metrics.layout import needs_large_scenes
from baselines.metrics.relations import dominant_axis
from baselines.metrics.resampling import share
from baselines.metrics.scene_parsing import Component, find_components
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score, partners

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "graded"
# Regions below this share of the largest of their colour are no objects; more than so many of one
# colour are not tried.
SPECK, MOST_REGIONS = 0.15, 6
TITLES = {
    "colour": "a region of the stated colour",
    "place": "- at the stated place",
    "size": "- of the stated size, given the colour",
    "shape": "- the stated shape fits it best, given the colour",
    "overlap": "- overlap with the stated shape, given the colour",
    "sharp": "- sharp and even as an object, given the colour",
    "both": "both objects of a relation, by colour",
    "relation": "relation",
    "relation_given_both": "- given both objects",
    "precision": "regions that are stated",
    "arrangement": "all colours, places and relations of a caption",
}


@dataclass(frozen=True)
class Graded:
    """How much of one picture's caption holds: for every row of `TITLES` (right, stated).

    by: the same by "objects=N" (objects that the caption states) and by relation.
    """

    counts: Mapping[str, tuple[float, float]]
    by: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)


def graded_rows(images: Tensor, captions: Sequence[SceneCaption]) -> list[Graded]:
    """Hold every picture against what its caption states.

    Args:
        images: (B, 3, S, S) in [-1, 1], S at least 32.
        captions: of each, by `Scenes.described`.

    Raises:
        ValueError: the numbers differ, or the pictures are too small.
    """
    if images.ndim != 4 or len(images) != len(captions):
        raise ValueError(
            f"images has shape {tuple(images.shape)} for {len(captions)} captions; "
            "expected (B, 3, S, S) with a caption each"
        )
    seen = (find_components(image.nan_to_num(0.0)) for image in images.float().cpu())
    return [grade(caption, found) for caption, found in zip(captions, seen, strict=True)]


def graded_scores(rows: Iterable[Graded]) -> dict[str, float]:
    """Sum up rows into shares in [0, 1]; NaN where nothing of the kind was stated.

    `place` at 9, 18 and 36 thousand images is what training runs are compared by.
    """
    return {name: _share(counts).value for name, counts in _columns(rows).items()}


def grade(caption: SceneCaption, seen: Sequence[Component]) -> Graded:
    """Hold one caption against the coloured regions of a picture, largest first."""
    meant = _meant(caption.objects, seen)
    tallies: dict[str, list[float]] = {name: [] for name in TITLES}
    for stated in caption.objects:
        found = meant.get(stated.index)
        tallies["colour"].append(found is not None)
        if stated.place is not None:
            tallies["place"].append(found is not None and found.place == stated.place)
        if found is not None:
            tallies["shape"].append(found.shape == stated.shape)
            tallies["overlap"].append(found.overlaps[stated.shape])
            tallies["sharp"].append(found.sharp)
            if stated.size is not None:
                tallies["size"].append(found.size == stated.size)
    by_relation: dict[str, dict[str, tuple[float, float]]] = {}
    for i, relation, j in caption.relations:
        both = i in meant and j in meant
        holds = both and relation in dominant_axis(meant[i].box, meant[j].box)
        tallies["both"].append(both)
        tallies["relation"].append(holds)
        if both:
            tallies["relation_given_both"].append(holds)
        by_relation[relation] = {
            "both": (both, 1),
            "relation": (holds, 1),
            "relation_given_both": (holds, both),
        }
    tallies["precision"] = [1.0] * len(meant) + [0.0] * (len(seen) - len(meant))
    arranged = tallies["colour"] + tallies["place"] + tallies["relation"]
    tallies["arrangement"].append(all(arranged))
    counts = {name: (float(sum(held)), float(len(held))) for name, held in tallies.items()}
    return Graded(counts, {f"objects={len(caption.objects)}": counts, **by_relation})


def _meant(stated: Sequence[StatedObject], seen: Sequence[Component]) -> dict[int, Component]:
    """Choose the region that each stated object is: that of its colour which fits its shape best.

    Specks do not take part, and no two objects share a region. A picture may well show an object
    of the same colour that the caption does not speak of.
    """
    meant: dict[int, Component] = {}
    for colour in {item.colour for item in stated}:
        wanted = [item for item in stated if item.colour == colour]
        regions = [component for component in seen if component.colour == colour]
        regions = [r for r in regions if r.area >= SPECK * regions[0].area][:MOST_REGIONS]
        # Where there are too few regions, some object goes without: an order of objects as well.
        pairings = (
            list(zip(items, places, strict=True))
            for items in itertools.permutations(wanted, min(len(wanted), len(regions)))
            for places in itertools.combinations(regions, len(items))
        )
        best = max(pairings, key=_fitting, default=[])
        meant |= {item.index: region for item, region in best}
    return meant


def _fitting(pairing: Sequence[tuple[StatedObject, Component]]) -> float:
    return sum(region.overlaps[item.shape] for item, region in pairing)


Counts = list[tuple[float, float]]


def _columns(rows: Iterable[Graded]) -> dict[str, Counts]:
    rows = list(rows)
    return {name: [row.counts[name] for row in rows] for name in TITLES}


def _parts(rows: Iterable[Graded]) -> dict[str, dict[str, Counts]]:
    """The same by row and by part: "objects=1", "left of", ..."""
    parts: dict[str, dict[str, Counts]] = {name: defaultdict(list) for name in TITLES}
    for row in rows:
        for part, counts in row.by.items():
            for name, count in counts.items():
                parts[name][part].append(count)
    return parts


def _share(counts: Counts) -> Score:
    right, stated = torch.tensor(counts, dtype=torch.float64).reshape(-1, 2).T
    value, error, interval = share(right, stated)
    return Score(value, error=error, interval=interval, count=int(stated.sum()))


class GradedMetric:
    """`graded/ROW` for every row of `TITLES`; with several samples also how many of them hold."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context, self.images = context, images
        self.partners = partners(context.pairs.class_ids[: images.pairs], context.seed)
        self.rows: list[Graded] = []
        self.shuffled: list[Graded] = []
        self.arranged: dict[int, int] = defaultdict(int)

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        for row, seen in zip(batch.rows.tolist(), batch.components(), strict=True):
            graded = grade(self.context.stated(row)[0], seen)
            self.arranged[row] += int(graded.counts["arrangement"][0])
            if batch.sample == 0:
                other = self.context.stated(int(self.partners[row]))[0]
                self.rows.append(graded)
                self.shuffled.append(grade(other, seen))

    def scores(self) -> Mapping[str, Score]:
        """Give every row with its control and its parts."""
        control, parts = _columns(self.shuffled), _parts(self.rows)
        rows = {}
        for name, counts in _columns(self.rows).items():
            by = {part: _share(held) for part, held in sorted(parts[name].items())}
            by = {part: score for part, score in by.items() if not math.isnan(score.value)}
            rows[f"{NAME}/{name}"] = replace(
                _share(counts), chance=_share(control[name]).value, by=by
            )
        samples = self.images.samples
        for least in range(1, samples + 1 if samples > 1 else 1):
            held = [(float(count >= least), 1.0) for count in self.arranged.values()]
            rows[f"{NAME}/arrangement/{least}_of_{samples}"] = _share(held)
        return rows


def _title(part: str) -> str:
    name, _, samples = part.partition("/")
    if samples:
        least, _, of = samples.partition("_of_")
        return f"- in {least} or more of {of} samples, %"
    return f"{TITLES.get(name, name)}, %"


SPEC = MetricSpec(
    name=NAME,
    start=GradedMetric,
    title=_title,
    percent=True,
    missing=needs_large_scenes,
    settings=lambda context, part: {"relation_rule": "dominant_axis"},
    note=(
        "Chance of graded rows: the same images with each other's captions; of a relation given "
        "both objects a quarter, the rule being the dominant axis."
    ),
    all_samples=True,
)
