"""Fréchet distance and Inception Score on the features of a named extractor."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore

from baselines.errors import UserError
from baselines.files import write_atomic

SPLITS = 10
# Published FID and IS are of 30,000 images; both are biased by the number.
PUBLISHED_COUNT = 30_000


class MixedStatisticsError(UserError):
    """Feature statistics that must not be compared; the message says what differs."""


@dataclass(frozen=True)
class Provenance:
    """How features were made. All of it must agree before two sets may be compared.

    extractor: its name; weights: hash of its parameters; preprocessing: from pixels to its input.
    """

    extractor: str
    weights: str
    preprocessing: str


class Statistics:
    """Mean and covariance of features, gathered batch by batch in float64.

    Args:
        provenance: of the features.
        dimension: D of the features.
        images: what the features are of (data set, split, size, ...), kept with them.
    """

    def __init__(
        self, provenance: Provenance, dimension: int, images: Mapping[str, Any] | None = None
    ) -> None:
        self.provenance = provenance
        self.images = dict(images or {})
        self.count = 0
        self._sum = torch.zeros(dimension, dtype=torch.float64)
        self._outer = torch.zeros(dimension, dimension, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add (B, D) features."""
        # The sums stay where the features are, but not on devices without float64.
        features = features.detach()
        features = (features if features.is_cuda else features.cpu()).double()
        self._sum, self._outer = self._sum.to(features), self._outer.to(features)
        self.count += len(features)
        self._sum += features.sum(dim=0)
        self._outer += features.T @ features

    def merged(self, other: Statistics) -> Statistics:
        """The statistics of both sets together."""
        require_same(self, other)
        both = Statistics(self.provenance, len(self._sum), self.images)
        both.count = self.count + other.count
        both._sum, both._outer = self._sum + other._sum, self._outer + other._outer
        return both

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        return self._sum.cpu() / self.count

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, unbiased."""
        centred = self._outer.cpu() - self.count * torch.outer(self.mean, self.mean)
        return centred / (self.count - 1)

    def save(self, path: Path) -> None:
        """Write mu, sigma and where they come from as .npz."""
        facts = {"provenance": asdict(self.provenance), "images": self.images}
        arrays = {
            "mu": self.mean.numpy(),
            "sigma": self.covariance.numpy(),
            "count": np.array(self.count),
            "facts": np.array(json.dumps(facts, sort_keys=True)),
        }
        write_atomic(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote.

        Raises:
            MixedStatisticsError: the file does not say which extractor its numbers are of.
            ValueError: it is no readable .npz.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path}: cannot be read as feature statistics ({error}); delete it"
            ) from error
        missing = {"mu", "sigma", "count", "facts"} - arrays.keys()
        if missing:
            raise MixedStatisticsError(
                f"{path}: has no {', '.join(sorted(missing))}, so what its numbers are of is not "
                "known; compute the statistics here instead"
            )
        facts = json.loads(str(arrays["facts"]))
        mean = torch.from_numpy(arrays["mu"]).double()
        made = cls(Provenance(**facts["provenance"]), len(mean), facts["images"])
        made.count = int(arrays["count"])
        made._sum = mean * made.count
        sigma = torch.from_numpy(arrays["sigma"]).double()
        made._outer = sigma * (made.count - 1) + made.count * torch.outer(mean, mean)
        return made


def require_same(first: Statistics, second: Statistics) -> None:
    """Refuse to compare features that were not made in the same way.

    Raises:
        MixedStatisticsError: naming what differs.
    """
    ours, theirs = asdict(first.provenance), asdict(second.provenance)
    differing = [f"{k}: {ours[k]} against {theirs[k]}" for k in ours if ours[k] != theirs[k]]
    if differing:
        raise MixedStatisticsError("statistics of different features: " + "; ".join(differing))


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Squared Fréchet distance of the two Gaussians: FID, if the extractor is Inception.

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), where the trace of the root is that of the symmetric
    (Σ₁^½ Σ₂ Σ₁^½)^½: real by construction for singular covariances too, which fewer images than
    features always give, and some times faster than the eigenvalues of Σ₁Σ₂.

    Raises:
        MixedStatisticsError: the features were made differently.
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


def inception_score(logits: Tensor, *, seed: int, splits: int = SPLITS) -> tuple[float, float]:
    """Mean and standard deviation over `splits` of exp E KL(p(y|x) ‖ p(y)).

    Args:
        logits: (N, C) of the classifier.
        seed: of the shuffle before the images are split.
        splits: fewer are taken if there are fewer than two images for each.
    """
    splits = max(1, min(splits, len(logits) // 2))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `InceptionScore` will save all")
        warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom")
        torch.manual_seed(seed)
        metric = InceptionScore(feature=nn.Identity(), splits=splits)
        metric.update(logits.double().cpu())
        mean, std = metric.compute()
    # One split has no spread; torch's unbiased estimate would be NaN.
    return float(mean), float(std) if splits > 1 else 0.0


def few_images_warning(count: int) -> str:
    """What to say beside a FID or IS of `count` images; empty when they are enough."""
    if count >= PUBLISHED_COUNT:
        return ""
    return (
        f"WARNING: FID and IS of {count:,} images. Published ones are of {PUBLISHED_COUNT:,}; "
        "fewer make FID larger and IS smaller, so compare only with the same number."
    )
