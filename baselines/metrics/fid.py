"""Fréchet distance to the real images: FID, where the features are those of the 2015 Inception."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baselines.metrics import PUBLISHED_COUNT
from baselines.metrics.extractors import EXTRACTORS
from baselines.metrics.features import FeatureSet, Statistics, require_same
from baselines.metrics.resampling import bootstrap, normal_interval
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "fid"
EQUAL = "equal"
# Each resample costs two eigendecompositions of the dimension of the features.
RESAMPLES, RESAMPLES_WIDE, WIDE = 100, 12, 512


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Measure the squared Fréchet distance of the two Gaussians.

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), where the trace of the root is that of the symmetric
    (Σ₁^½ Σ₂ Σ₁^½)^½: real by construction for singular covariances too, which fewer images than
    features always give, and some times faster than the eigenvalues of Σ₁Σ₂.

    Raises:
        MixedStatisticsError: the features were made differently, or belong to different data.
        ValueError: fewer than two images on a side.
    """
    require_same(first, second)
    if min(first.count, second.count) < 2:
        raise ValueError(
            f"a Fréchet distance needs two images or more on each side, got {first.count} "
            f"and {second.count}"
        )
    covariance, other = first.covariance, second.covariance
    if not (torch.isfinite(covariance).all() and torch.isfinite(other).all()):
        return float("nan")
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ other @ root).clamp(min=0).sqrt().sum()
    offset = (first.mean - second.mean).square().sum()
    return float(offset + covariance.trace() + other.trace() - 2 * cross)


class FrechetMetric:
    """`fid/EXTRACTOR` to all real images, and `fid/EXTRACTOR/equal` at equal numbers.

    The distance of fewer images is larger, so the floor that real images set must be one of as
    many: `equal` compares k images, drawn or real, with one half of the real images, where k is
    the number drawn, or of the other half of the real images where that is less.
    """

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context, self.images = context, images

    def update(self, batch: ImageBatch) -> None:
        """Nothing: the features are gathered once for all metrics."""

    def scores(self) -> Mapping[str, Score]:
        """Give the rows of every extractor."""
        rows = {}
        for name, reference in self.context.reference.items():
            if not self.images.real:
                own = self.images.features[name]
                rows[f"{NAME}/{name}"] = _distance(own, reference, self.context.seed)
            equal = self._equal(name, reference)
            if equal is not None:
                rows[f"{NAME}/{name}/{EQUAL}"] = equal
        return rows

    def _equal(self, name: str, reference: FeatureSet) -> Score | None:
        if reference.pooled is None or reference.count < 4:
            return None
        # Halves by turns, so that a set is split evenly whatever its order.
        places = torch.arange(reference.count)
        half, rest = places[::2], places[1::2]
        count = min(len(rest), self.context.drawn)
        if self.images.real:
            part = reference.part(rest[:count])
        else:
            own = self.images.features[name]
            count = min(count, own.count)
            part = own.part(torch.arange(count))
        if count < 2:
            return None
        value = frechet_distance(part, reference.part(half))
        return Score(value, count=count, facts={"reference_images": len(half)})


def _distance(own: FeatureSet, reference: FeatureSet, seed: int) -> Score:
    if min(own.count, reference.count) < 2:
        return Score(math.nan, count=own.count)
    value = frechet_distance(own.statistics, reference.statistics)
    error = None
    if own.pooled is not None and reference.pooled is not None and math.isfinite(value):
        wide = own.pooled.shape[1] > WIDE

        def resampled(first: Tensor, second: Tensor) -> float:
            return frechet_distance(own.part(first), reference.part(second))

        error = bootstrap(
            resampled,
            (own.count, reference.count),
            seed=seed,
            resamples=RESAMPLES_WIDE if wide else RESAMPLES,
        )
    return Score(
        value,
        error=error,
        interval=normal_interval(value, error),
        count=own.count,
        facts={"reference_images": reference.count},
    )


def compared_features(
    context: EvaluationContext, images: ImageSet
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(extractor, real (M, D), drawn (N, D)) wherever both are known; of real images, the halves.

    Raises:
        MixedStatisticsError: the features were made differently, or belong to different data.
    """
    for name, reference in context.reference.items():
        own = reference if images.real else images.features[name]
        require_same(own, reference)
        if reference.pooled is None or own.pooled is None:
            continue
        if images.real:
            yield name, reference.pooled[::2], reference.pooled[1::2]
        else:
            yield name, reference.pooled, own.pooled


def needs_extractor(context: EvaluationContext) -> str:
    """Say why nothing can be compared by features."""
    if not context.extractors:
        return "it needs an extractor: give --extractor"
    return ""


def few_images(context: EvaluationContext) -> list[str]:
    """Warn of numbers at which the distance is biased or its covariance singular."""
    found = []
    if context.drawn < PUBLISHED_COUNT:
        found.append(
            f"FID and IS of {context.drawn:,} images. Published ones are of {PUBLISHED_COUNT:,}; "
            "fewer make FID larger and IS smaller, so compare only with the same number"
        )
    for name, extractor in context.extractors.items():
        known = context.reference.get(name)
        least = min(context.drawn, known.count if known is not None else context.drawn)
        if least <= extractor.dimension:
            found.append(
                f"{least:,} images for {extractor.dimension:,} dimensions of {name}: the "
                "covariance is singular and FID mostly bias; KID has none"
            )
    return found


def feature_settings(context: EvaluationContext, part: str) -> Mapping[str, Any]:
    """Give what the features of a row depend on."""
    name = part.split("/")[0]
    if name not in context.extractors:
        return {}
    settings = {"extractor": asdict(context.extractors[name].provenance)}
    if name in context.reference:
        reference = context.reference[name]
        settings["reference"] = {**reference.facts, "count": reference.count}
    return settings


def _title(part: str) -> str:
    name, _, kind = part.partition("/")
    title = f"{EXTRACTORS[name].distance} ↓" if name in EXTRACTORS else f"FID ↓ ({part})"
    return f"- {title}, equal numbers" if kind == EQUAL else title


SPEC = MetricSpec(
    name=NAME,
    start=FrechetMetric,
    title=_title,
    better="lower",
    missing=needs_extractor,
    settings=feature_settings,
    warnings=few_images,
    note=(
        "Equal numbers: as many drawn as real images against one half of the real ones; the real "
        "images' value is what a perfect generator would get."
    ),
    uses_features=True,
    compares=True,
)
