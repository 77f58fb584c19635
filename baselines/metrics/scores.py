"""The rows of the evaluation table: each metric gathers one set of images batch by batch.

To add a metric, write a class with `update` and `scores` and enter it in `METRICS`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from baselines.data.loader import seeded_rng
from baselines.data.scene_captions import SceneCaption
from baselines.data.scene_content import CornerBox
from baselines.data.source import SceneFacts, Source
from baselines.errors import UserError
from baselines.metrics.drawing import Pairs, Shown
from baselines.metrics.extractors import Extractor
from baselines.metrics.layout import CaptionCheck, LayoutScore, check_caption, layout_localisation
from baselines.metrics.quality import Statistics, frechet_distance, inception_score
from baselines.metrics.r_precision import CandidateCaptions, r_precision
from baselines.metrics.scene_parsing import SMALLEST, parse_scene

REAL = "real"


class MetricError(UserError):
    """A metric that does not exist or cannot be had here; the message says why."""


@dataclass(frozen=True)
class Score:
    """One number of one set of images; chance: what it would be if nothing had been learnt."""

    value: float
    std: float | None = None
    chance: float | None = None


@dataclass
class Setting:
    """What all metrics of one evaluation share.

    pairs: of the whole split; sentences: (N, E) of all pairs; count: images drawn; real_count:
    different real images among them; size: side of the images; extractors: by name; facts: what
    the real images are, kept with their statistics; cache: folder of those statistics.
    """

    source: Source
    pairs: Pairs
    sentences: Tensor
    count: int
    real_count: int
    size: int
    seed: int
    extractors: Mapping[str, Extractor]
    facts: Mapping[str, Any]
    cache: Path
    # Of the real images by extractor: made by the real set, which therefore comes first.
    references: dict[str, Statistics] = field(default_factory=dict)

    _facts: dict[int, SceneFacts | None] = field(default_factory=dict)

    @property
    def has_scenes(self) -> bool:
        """Whether the source knows what its pictures hold."""
        return self._facts_of(0) is not None

    def stated(self, row: int) -> tuple[SceneCaption, tuple[CornerBox, ...]]:
        """What the caption of a pair states, and the boxes of its scene."""
        facts = self._facts_of(int(self.pairs.images[row]))
        assert facts is not None
        return facts.captions[int(self.pairs.captions[row])], facts.boxes

    def _facts_of(self, index: int) -> SceneFacts | None:
        if index not in self._facts:
            self._facts[index] = self.source.scene_facts(index)
        return self._facts[index]


class Metric(Protocol):
    """Gathers one set of images."""

    def update(self, shown: Shown) -> None:
        """Take in a batch."""
        ...

    def scores(self) -> Mapping[str, Score]:
        """The rows of the table, by name."""
        ...


class RPrecisionMetric:
    """`r_precision`."""

    def __init__(self, setting: Setting, images: str) -> None:
        self.setting = setting
        self.pool = CandidateCaptions(setting.sentences, setting.pairs.class_ids)
        # The same candidates for every set of images: differences are those of the images.
        self.generator = torch.Generator().manual_seed(setting.seed)
        self.hits: list[Tensor] = []

    def update(self, shown: Shown) -> None:
        """Take in a batch."""
        sentences = self.setting.sentences[shown.rows]
        classes = self.setting.pairs.class_ids[shown.rows]
        code = shown.code.float().cpu()
        self.hits.append(self.pool.hits(code, sentences, classes, generator=self.generator))

    def scores(self) -> Mapping[str, Score]:
        """Mean and standard deviation over folds; chance is one in the number of candidates."""
        result = r_precision(torch.cat(self.hits), seed=self.setting.seed)
        return {"r_precision": Score(result.mean, result.std, self.pool.chance)}


class FrechetMetric:
    """`fid`: the Fréchet distance to the real images, for every extractor.

    The real set itself is scored half against half: what a perfect generator would still get from
    as few images.
    """

    def __init__(self, setting: Setting, images: str) -> None:
        self.setting, self.real = setting, images == REAL
        # Halves by turns, so that a set is split evenly whatever its order.
        self.halves = {
            name: [self._empty(extractor), self._empty(extractor)]
            for name, extractor in setting.extractors.items()
            if not (self.real and self._cached(name, extractor))
        }

    def _empty(self, extractor: Extractor) -> Statistics:
        facts = self.setting.facts if self.real else {}
        return Statistics(extractor.provenance, extractor.dimension, facts)

    def _path(self, name: str) -> Path:
        return self.setting.cache / f"reference-{name}.npz"

    def _cached(self, name: str, extractor: Extractor) -> bool:
        if not self._path(name).is_file():
            return False
        saved = Statistics.load(self._path(name))
        same = saved.provenance == extractor.provenance
        if not same or {**saved.images, "halves": 0} != {**self.setting.facts, "halves": 0}:
            return False
        self.setting.references[name] = saved
        return True

    def update(self, shown: Shown) -> None:
        """Take in a batch."""
        for name, halves in self.halves.items():
            pooled = shown.features(self.setting.extractors[name]).pooled
            for half, statistics in enumerate(halves):
                statistics.update(pooled[(shown.rows % 2 == half).to(pooled.device)])

    def scores(self) -> Mapping[str, Score]:
        """Distances; those of the real set also become the reference of the others."""
        if self.real:
            for name, (even, odd) in self.halves.items():
                reference = even.merged(odd)
                enough = min(even.count, odd.count) > 1
                halves = frechet_distance(even, odd) if enough else math.nan
                reference.images["halves"] = halves
                self.setting.references[name] = reference
                if reference.count > 1:
                    reference.save(self._path(name))
            return {
                f"fid/{name}": Score(float(reference.images["halves"]))
                for name, reference in self.setting.references.items()
            }
        return {
            f"fid/{name}": Score(frechet_distance(even.merged(odd), self.setting.references[name]))
            for name, (even, odd) in self.halves.items()
        }


class InceptionScoreMetric:
    """`is`: Inception Score, for every extractor that has a classifier."""

    def __init__(self, setting: Setting, images: str) -> None:
        self.setting = setting
        self.logits: dict[str, list[Tensor]] = {
            name: [] for name, e in setting.extractors.items() if e.has_classifier
        }

    def update(self, shown: Shown) -> None:
        """Take in a batch."""
        for name, logits in self.logits.items():
            found = shown.features(self.setting.extractors[name]).logits
            assert found is not None
            logits.append(found.float().cpu())

    def scores(self) -> Mapping[str, Score]:
        """Mean and standard deviation over splits; 1 is the least there is."""
        return {
            f"is/{name}": Score(*inception_score(torch.cat(logits), seed=self.setting.seed), 1.0)
            for name, logits in self.logits.items()
        }


class LayoutMetric:
    """`layout`: what of the captions of scenes is true of the images, from pixels alone.

    Chance is what the same images score with each other's captions.
    """

    PARTS = ("overall", "objects", "sizes", "places", "relations")

    def __init__(self, setting: Setting, images: str) -> None:
        self.setting = setting
        count = setting.real_count if images == REAL else setting.count
        self.partners = partners(setting.pairs.class_ids[:count], setting.seed)
        self.checks: list[CaptionCheck] = []
        self.shuffled: list[CaptionCheck] = []

    def update(self, shown: Shown) -> None:
        """Take in a batch."""
        for row, image in zip(shown.rows.tolist(), shown.images.float().cpu(), strict=True):
            seen = parse_scene(image.nan_to_num(0.0))
            own, other = (self.setting.stated(r)[0] for r in (row, int(self.partners[row])))
            self.checks.append(check_caption(own, seen))
            self.shuffled.append(check_caption(other, seen))

    def scores(self) -> Mapping[str, Score]:
        """Whole captions that hold, then each kind of statement."""
        found, control = LayoutScore.of(self.checks), LayoutScore.of(self.shuffled)
        return {
            "layout" if part == "overall" else f"layout/{part}": Score(
                getattr(found, part), chance=getattr(control, part)
            )
            for part in self.PARTS
        }


class LocalisationMetric:
    """`localisation`: how much of a word's layout lies on the box of the object it describes."""

    def __init__(self, setting: Setting, images: str) -> None:
        self.setting = setting
        self.sums: dict[int, tuple[float, int]] = {}

    def update(self, shown: Shown) -> None:
        """Take in a batch."""
        width = self.setting.pairs.ids.shape[1]
        captions, boxes = zip(*map(self.setting.stated, shown.rows.tolist()), strict=True)
        words = [caption.word_objects for caption in captions]
        named = sum(index >= 0 for indices in words for index in indices[:width])
        if not named:
            return
        for stage, layout in enumerate(shown.layouts, start=1):
            total, count = self.sums.get(stage, (0.0, 0))
            share = layout_localisation(layout.float(), words, boxes)
            self.sums[stage] = (total + share * named, count + named)

    def scores(self) -> Mapping[str, Score]:
        """The mean over words, per refinement stage; 1 is no localisation at all."""
        return {
            f"localisation/stage{stage}": Score(total / count, chance=1.0)
            for stage, (total, count) in self.sums.items()
        }


def partners(class_ids: Tensor, seed: int) -> Tensor:
    """For every image another one of another class, from a seeded shuffle; itself if none is."""
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


def needs_classifier(setting: Setting) -> str:
    """Why IS cannot be had."""
    if any(extractor.has_classifier for extractor in setting.extractors.values()):
        return ""
    return (
        f"none of {', '.join(setting.extractors)} has a classifier; use --extractor inception-2015 "
        "with weights (a TorchScript file has features only) or torchvision-imagenet"
    )


def needs_scenes(setting: Setting) -> str:
    """Why the content of pictures cannot be checked."""
    if not setting.has_scenes:
        return f"it needs data.name=scenes, this run has {setting.source.name}"
    return ""


def needs_large_scenes(setting: Setting) -> str:
    """The same, for pictures from which shapes can be read."""
    if not needs_scenes(setting) and setting.size < SMALLEST:
        return f"images of {setting.size} px are too small, it needs {SMALLEST}"
    return needs_scenes(setting)


@dataclass(frozen=True)
class Kind:
    """A metric by name: its class and what it needs (a reason why not, or "")."""

    start: Callable[[Setting, str], Metric]
    missing: Callable[[Setting], str] = lambda setting: ""


METRICS: dict[str, Kind] = {
    "r_precision": Kind(RPrecisionMetric),
    "fid": Kind(FrechetMetric),
    "is": Kind(InceptionScoreMetric, needs_classifier),
    "layout": Kind(LayoutMetric, needs_large_scenes),
    "localisation": Kind(LocalisationMetric, needs_scenes),
}


def check_names(names: Sequence[str]) -> None:
    """Refuse metrics that do not exist.

    Raises:
        MetricError: naming the nearest that does.
    """
    for name in names:
        if name not in METRICS:
            nearest = difflib.get_close_matches(name, list(METRICS), n=1, cutoff=0.0)[0]
            raise MetricError(f"unknown metric {name!r}; the nearest is {nearest!r}")


def choose(names: Sequence[str] | None, setting: Setting) -> tuple[dict[str, Kind], dict[str, str]]:
    """The metrics asked for, or all that can be had; and why others cannot.

    Raises:
        MetricError: one asked for by name cannot be had here.
    """
    check_names(names or [])
    reasons = {name: METRICS[name].missing(setting) for name in names or METRICS}
    if names:
        for name, reason in reasons.items():
            if reason:
                raise MetricError(f"metric {name}: {reason}")
    chosen = {name: METRICS[name] for name, reason in reasons.items() if not reason}
    return chosen, {name: reason for name, reason in reasons.items() if reason}
