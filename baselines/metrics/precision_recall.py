"""Precision and recall of features: are drawn images like real ones, and real ones like drawn?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baselines.metrics.fid import compared_features, feature_settings, needs_extractor
from baselines.metrics.resampling import share
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "precision_recall"
NEIGHBOURS = 3
CHUNK = 1024


def precision_recall(
    real: Tensor, fake: Tensor, *, neighbours: int = NEIGHBOURS
) -> tuple[Tensor, Tensor]:
    """Say of every drawn image whether it is precise, and of every real one whether it is recalled.

    A drawn image is precise if it lies within the ball of some real image, a real image is
    recalled if it lies within the ball of some drawn one; a ball reaches to the `neighbours`-th
    nearest image of its own set (Kynkäänniemi et al. 2019).

    Args:
        real: (M, D) features.
        fake: (N, D) features.
        neighbours: the radius of the balls, fewer than either count.

    Returns:
        (N,) and (M,) Booleans.

    >>> points = torch.arange(5.0)[:, None]
    >>> [x.float().mean().item() for x in precision_recall(points, points + 100)]
    [0.0, 0.0]
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(
            f"{len(real)} real and {len(fake)} drawn images: expected more than {neighbours} each"
        )
    return _within(fake, real, neighbours), _within(real, fake, neighbours)


def _within(points: Tensor, centres: Tensor, neighbours: int) -> Tensor:
    """(N,) whether each point lies within the ball of some centre."""
    centres = centres.double()
    radii = torch.cat(
        [
            torch.cdist(rows, centres).kthvalue(neighbours + 1, dim=1).values
            for rows in centres.split(CHUNK)
        ]
    )
    inside = [
        (torch.cdist(rows.double(), centres) <= radii).any(dim=1) for rows in points.split(CHUNK)
    ]
    return torch.cat(inside)


class PrecisionRecallMetric:
    """`precision_recall/EXTRACTOR/precision` and `/recall`; of real images, of their halves."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context, self.images = context, images

    def update(self, batch: ImageBatch) -> None:
        """Nothing: the features are gathered once for all metrics."""

    def scores(self) -> Mapping[str, Score]:
        """Give two rows for every extractor whose reference holds features."""
        rows = {}
        for name, real, fake in compared_features(self.context, self.images):
            if min(len(real), len(fake)) <= NEIGHBOURS:
                continue
            for kind, held in zip(
                ("precision", "recall"), precision_recall(real, fake), strict=True
            ):
                value, error, interval = share(held, torch.ones(len(held)))
                rows[f"{NAME}/{name}/{kind}"] = Score(
                    value, error=error, interval=interval, count=len(held)
                )
        return rows


def _title(part: str) -> str:
    name, _, kind = part.partition("/")
    return f"{kind} % ↑ ({name})"


SPEC = MetricSpec(
    name=NAME,
    start=PrecisionRecallMetric,
    title=_title,
    percent=True,
    missing=needs_extractor,
    settings=lambda context, part: {**feature_settings(context, part), "neighbours": NEIGHBOURS},
    note="Precision and recall of real images are those of their two halves.",
    uses_features=True,
    compares=True,
)
