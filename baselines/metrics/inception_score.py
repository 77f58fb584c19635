"""Inception Score: are the images sure of their class, and the classes many?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from baselines.metrics.extractors import EXTRACTORS
from baselines.metrics.fid import feature_settings
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "is"
CALIBRATED = "calibrated"
IS_SPLITS = 10


class InceptionResult(NamedTuple):
    """mean; std over the splits as published (ddof 0); splits: how many there were."""

    mean: float
    std: float
    splits: int


def inception_score(logits: Tensor, *, seed: int, splits: int = IS_SPLITS) -> InceptionResult:
    """Average exp E KL(p(y|x) ‖ p(y)) over `splits` parts of the images.

    Args:
        logits: (N, C) of the classifier.
        seed: of the shuffle before the images are split.
        splits: fewer are taken if there are fewer than two images for each.

    >>> inception_score(60.0 * torch.eye(4).repeat(100, 1), seed=0, splits=1)
    InceptionResult(mean=4.0, std=0.0, splits=1)
    """
    from torchmetrics.image.inception import InceptionScore

    splits = max(1, min(splits, len(logits) // 2))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `InceptionScore` will save all")
        warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom")
        torch.manual_seed(seed)
        metric = InceptionScore(feature=nn.Identity(), splits=splits)
        metric.update(logits.double().cpu())
        mean, std = metric.compute()
    # torchmetrics divides by one less than the splits, the published code by their number.
    spread = float(std) * math.sqrt((splits - 1) / splits) if splits > 1 else 0.0
    return InceptionResult(float(mean), spread, splits)


class InceptionScoreMetric:
    """`is/EXTRACTOR`, and `is/EXTRACTOR/calibrated` where a temperature is published (IS*)."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context, self.images = context, images

    def update(self, batch: ImageBatch) -> None:
        """Nothing: the features are gathered once for all metrics."""

    def scores(self) -> Mapping[str, Score]:
        """Give the rows of every extractor with a classifier; 1 is the least there is."""
        rows = {}
        for name in self.context.extractors:
            logits = self.images.features[name].logits
            if logits is None:
                continue
            rows[f"{NAME}/{name}"] = _score(logits, self.context.seed)
            temperature = EXTRACTORS[name].temperature
            if temperature is not None:
                calibrated = _score(logits / temperature, self.context.seed)
                rows[f"{NAME}/{name}/{CALIBRATED}"] = calibrated
        return rows


def _score(logits: Tensor, seed: int) -> Score:
    result = inception_score(logits, seed=seed)
    error = None
    if result.splits > 1:
        error = result.std / math.sqrt(result.splits - 1)
    return Score(
        result.mean,
        error=error,
        spread=result.std,
        chance=1.0,
        count=len(logits),
        facts={"splits": result.splits},
    )


def _missing(context: EvaluationContext) -> str:
    if any(extractor.has_classifier for extractor in context.extractors.values()):
        return ""
    return (
        f"none of {', '.join(context.extractors) or 'no extractors'} has a classifier; use "
        "--extractor inception-2015 with weights (a TorchScript file has features only), "
        "torchvision-imagenet or cub-classifier"
    )


def _title(part: str) -> str:
    name, _, kind = part.partition("/")
    return f"- IS* ↑ ({name}, calibrated)" if kind else f"Inception Score ↑ ({name})"


SPEC = MetricSpec(
    name=NAME,
    start=InceptionScoreMetric,
    title=_title,
    missing=_missing,
    settings=feature_settings,
    uses_features=True,
)
