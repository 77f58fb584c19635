"""Kernel distance to the real images: unbiased, so fewer images only make it less certain."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from baselines.metrics.extractors import EXTRACTORS
from baselines.metrics.fid import compared_features, feature_settings, needs_extractor
from baselines.metrics.resampling import normal_interval
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "kid"
SUBSETS, SUBSET_SIZE = 100, 1000
BLOCKS, LEAST_BLOCK = 10, 8


class KernelDistance(NamedTuple):
    """mean and std over the subsets; subsets: how many; size: images of each side in one."""

    mean: float
    std: float
    subsets: int
    size: int


def kernel_distance(
    real: Tensor, fake: Tensor, *, seed: int, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> KernelDistance:
    """Estimate the squared maximum mean discrepancy under the kernel (xᵀy / D + 1)³.

    Args:
        real: (M, D) features.
        fake: (N, D) features.
        seed: of the choice of subsets.
        subsets: estimates to average over; one is enough where a subset is all there is.
        size: images of each side in a subset, at most as many as there are.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(size, len(real), len(fake))
    subsets = 1 if size == len(real) == len(fake) else subsets
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(feature=nn.Identity(), subsets=subsets, subset_size=size)
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
        mean, std = metric.compute()
    return KernelDistance(float(mean), float(std), subsets, size)


def block_error(real: Tensor, fake: Tensor, *, seed: int) -> float | None:
    """Estimate the standard error of the distance for other images of both kinds.

    The scatter of the distance over disjoint blocks, by the root of their number. Small blocks
    scatter more than the root says, so it is an upper bound; the spread over subsets is none,
    since they share images.

    Args:
        real: (M, D) features.
        fake: (N, D) features.
        seed: of the shuffle.

    Returns:
        None where a block would have fewer than `LEAST_BLOCK` images.
    """
    if min(len(real), len(fake)) < BLOCKS * LEAST_BLOCK:
        return None
    rng = torch.Generator().manual_seed(seed)
    sides = [side[torch.randperm(len(side), generator=rng)].double() for side in (real, fake)]
    values = []
    for block in zip(*(side.tensor_split(BLOCKS) for side in sides), strict=True):
        size = min(map(len, block))
        ours, theirs = (part[:size] for part in block)
        values.append(kernel_distance(ours, theirs, seed=seed, size=size).mean)
    return float(torch.tensor(values, dtype=torch.float64).std() / BLOCKS**0.5)


class KernelDistanceMetric:
    """`kid/EXTRACTOR`: of the drawn images to the real ones, and of the halves of the real."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context, self.images = context, images

    def update(self, batch: ImageBatch) -> None:
        """Nothing: the features are gathered once for all metrics."""

    def scores(self) -> Mapping[str, Score]:
        """Give the rows of every extractor whose reference holds features."""
        rows = {}
        for name, real, fake in compared_features(self.context, self.images):
            if min(len(real), len(fake)) < 2:
                continue
            result = kernel_distance(real, fake, seed=self.context.seed)
            error = block_error(real, fake, seed=self.context.seed)
            rows[f"{NAME}/{name}"] = Score(
                result.mean,
                error=error,
                interval=normal_interval(result.mean, error),
                spread=result.std,
                count=len(fake),
                facts={"subsets": result.subsets, "subset_size": result.size},
            )
        return rows


def _title(part: str) -> str:
    return f"KID ↓ ({part})" if EXTRACTORS[part].is_inception else f"kernel distance ↓ ({part})"


def _missing(context: EvaluationContext) -> str:
    if context.reference and all(r.pooled is None for r in context.reference.values()):
        return "the reference holds a mean and a covariance only"
    return needs_extractor(context)


SPEC = MetricSpec(
    name=NAME,
    start=KernelDistanceMetric,
    title=_title,
    better="lower",
    missing=_missing,
    settings=feature_settings,
    note="The kernel distance of real images is that of their two halves; it may be below 0.",
    uses_features=True,
    compares=True,
)
