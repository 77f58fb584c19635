"""What a metric is: the contract of every file in this folder that measures something.

To add a metric, write one file with a class that has `update` and `scores` (see `Metric`) and a
`SPEC`, and name both in `baselines.metrics.FILES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from baselines.data.loader import seeded_rng
from baselines.data.scene_captions import SceneCaption
from baselines.data.scene_content import CornerBox
from baselines.data.source import SceneFacts, Source
from baselines.data.vocabulary import Vocabulary
from baselines.errors import UserError
from baselines.metrics.extractors import Extractor
from baselines.metrics.features import FeatureSet
from baselines.metrics.pairs import Pairs
from baselines.networks.encoders import ImageEncoder

if TYPE_CHECKING:
    from baselines.metrics.alignment import FalseCaption
    from baselines.metrics.detectors import Detector
    from baselines.metrics.image_text import ImageTextJudge
    from baselines.metrics.images import ImageBatch

# From (images (B, 3, S, S), rows of their pairs (B,)) to layouts by stage.
LayoutMaker = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


class MetricError(UserError):
    """A metric that does not exist or cannot be had here; the message says why."""


@dataclass(frozen=True)
class Score:
    """One number of one set of images.

    Args:
        value: NaN where there was nothing to measure.
        error: standard error of `value` as an estimate for more images of the kind.
        interval: the 95 % interval of it.
        spread: standard deviation over folds or subsets, as published beside such numbers.
        chance: what it would be if nothing had been learnt; see the metric's note.
        count: of how many images, objects, words, ... it is the mean.
        facts: further numbers by name, such as the real number of folds.
        by: the same score of a part: by the number of objects, by relation.
    """

    value: float
    error: float | None = None
    interval: tuple[float, float] | None = None
    spread: float | None = None
    chance: float | None = None
    count: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    by: Mapping[str, Score] = field(default_factory=dict)


@dataclass
class ImageSet:
    """A set of images under measurement.

    name: "real", "untrained", "trained", ...; pairs: how many pairs it shows, from the first on;
    samples: images of each pair; real: whether they are real; paired: whether they belong to the
    pairs, so that captions can be asked of them; features: of its images, by extractor, gathered
    while they pass.
    """

    name: str
    pairs: int
    samples: int = 1
    real: bool = False
    paired: bool = True
    features: dict[str, FeatureSet] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptionEncoder:
    """Two encoders that judge whether an image fits a caption.

    name: "" for the run's own, which the generator was trained with; image: from images to an
    image `code`; sentences: (N, E) of all pairs; weights: hash of both networks.
    """

    name: str
    image: ImageEncoder | ImageTextJudge
    sentences: Tensor
    weights: str


@dataclass
class EvaluationContext:
    """What all metrics of one evaluation share.

    source: where captions come from; pairs: of the whole split; size: side of the images; seed: of
    candidates, shuffles and resampling; encoders: that judge captions; extractors: by name;
    vocabulary: of the run; real_layouts: Θ* of given images under the words of given pairs; gamma:
    from which difference on an element of a layout is hard; reference:
    features of the real images, by extractor, gathered before any other set is measured;
    detector: finds objects; judge: of images and texts, such as CLIP; class_captions: the captions
    that count for each class, None for all that name it; false_captions, counts: by caption, None
    for what the captions say themselves.
    """

    source: Source
    pairs: Pairs
    size: int
    seed: int
    encoders: Sequence[CaptionEncoder] = ()
    extractors: Mapping[str, Extractor] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    real_layouts: LayoutMaker | None = None
    gamma: float = 0.1
    reference: dict[str, FeatureSet] = field(default_factory=dict)
    reference_facts: Mapping[str, Any] = field(default_factory=dict)
    drawn: int = 0
    samples: int = 1
    cache: Path | None = None
    detector: Detector | None = None
    judge: ImageTextJudge | None = None
    class_captions: Mapping[str, frozenset[str]] | None = None
    false_captions: Mapping[str, Sequence[FalseCaption]] | None = None
    counts: Mapping[str, Mapping[str, int]] | None = None
    _stated: dict[int, SceneFacts] = field(default_factory=dict)

    @cached_property
    def has_scenes(self) -> bool:
        """Whether the source knows what its pictures hold."""
        return self.source.scene_facts(0) is not None

    def caption(self, row: int) -> str:
        """Give the caption of a pair."""
        return self.source.captions(int(self.pairs.images[row]))[int(self.pairs.captions[row])]

    def stated(self, row: int) -> tuple[SceneCaption, tuple[CornerBox, ...]]:
        """Give what the caption of a pair of `scenes` states, and the boxes of its scene."""
        index = int(self.pairs.images[row])
        if index not in self._stated:
            facts = self.source.scene_facts(index)
            assert facts is not None, "asked of scenes alone"
            self._stated[index] = facts
        captions, boxes = self._stated[index]
        return captions[int(self.pairs.captions[row])], boxes


class Metric(Protocol):
    """Gathers one set of images."""

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        ...

    def scores(self) -> Mapping[str, Score]:
        """Give the rows of the table by name: the metric's own, or `metric/part`."""
        ...


@dataclass(frozen=True)
class MetricSpec:
    """A metric: how it starts, what it needs, and how its rows read.

    Args:
        name: as `--metrics` takes it; its rows are `name` and `name/part`.
        start: a fresh `Metric` for one set of images.
        title: of a row, given its part ("" for the row `name`).
        percent: shown as a percentage.
        better: "higher" or "lower"; "" where neither is.
        missing: why it cannot be had here, or "".
        settings: of a part's row: what else must agree before two values may be compared.
        warnings: what must be known to read its rows, each with its reason.
        note: one sentence for below the table.
        uses_features: whether it reads `ImageSet.features`, and the images only through them.
        uses_layouts: whether it reads `ImageBatch.layouts`.
        all_samples: whether it is shown every sample of a pair, not only the first.
        real: whether real images are measured too.
        compares: whether it needs real images to compare with.
    """

    name: str
    start: Callable[[EvaluationContext, ImageSet], Metric]
    title: Callable[[str], str]
    percent: bool = False
    better: str = "higher"
    missing: Callable[[EvaluationContext], str] = lambda context: ""
    settings: Callable[[EvaluationContext, str], Mapping[str, Any]] = lambda context, part: {}
    warnings: Callable[[EvaluationContext], Sequence[str]] = lambda context: ()
    note: str = ""
    uses_features: bool = False
    uses_layouts: bool = False
    all_samples: bool = False
    real: bool = True
    compares: bool = False


def partners(class_ids: Tensor, seed: int) -> Tensor:
    """Choose for every image another one of another class, from a seeded shuffle.

    An image keeps itself where no other class is left.

    >>> partners(torch.tensor([4, 4, 7]), seed=0)[:2].tolist()
    [2, 2]
    """
    order = torch.randperm(len(class_ids), generator=seeded_rng(seed, len(class_ids)))
    classes = class_ids[order].tolist()
    found = torch.arange(len(class_ids))
    for place, own in enumerate(classes):
        for step in range(1, len(classes)):
            other = (place + step) % len(classes)
            if classes[other] != own:
                found[order[place]] = order[other]
                break
    return found


def needs_scenes(context: EvaluationContext) -> str:
    """Say why the content of pictures cannot be checked against what captions state."""
    if not context.has_scenes:
        return f"it needs data.name=scenes, this run has {context.source.name}"
    return ""
