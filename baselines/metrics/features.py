"""Features of sets of images, what they are of, and their mean and covariance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.errors import UserError
from baselines.files import write_atomic

# What two sets must agree in before they are compared, where both say it.
COMPARED = ("data", "fingerprint", "split", "size")
CHUNK = 4096


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
        """Join the statistics of two sets."""
        require_same(self, other)
        both = Statistics(self.provenance, len(self._sum), self.images)
        both.count = self.count + other.count
        both._sum, both._outer = self._sum + other._sum, self._outer + other._outer
        return both

    @property
    def dimension(self) -> int:
        """D."""
        return len(self._sum)

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        return self._sum.cpu() / self.count

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, unbiased."""
        centred = self._outer.cpu() - self.count * torch.outer(self.mean, self.mean)
        return centred / (self.count - 1)

    def save(self, path: Path, **arrays: np.ndarray) -> None:
        """Write mu, sigma, where they come from and further `arrays` as .npz."""
        facts = {"provenance": asdict(self.provenance), "images": self.images}
        arrays |= {
            "mu": self.mean.numpy(),
            "sigma": self.covariance.numpy(),
            "count": np.array(self.count),
            "facts": np.array(json.dumps(facts, sort_keys=True)),
        }
        write_atomic(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]  # stubs read names as options

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote.

        Raises:
            MixedStatisticsError: the file does not say which extractor its numbers are of.
            UserError: it is no readable .npz.
        """
        return _statistics(path, _arrays(path))


class FeatureSet:
    """Features of a set of images in their order.

    Args:
        provenance: how they were made.
        facts: what the images are.
        statistics: where only mean and covariance are known.
    """

    def __init__(
        self,
        provenance: Provenance,
        facts: Mapping[str, Any] | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self.provenance, self.facts = provenance, dict(facts or {})
        self._pooled: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._statistics = statistics

    def add(self, pooled: Tensor, logits: Tensor | None) -> None:
        """Add (B, D) features and (B, C) logits, kept in float32 on the CPU."""
        self._pooled.append(pooled.detach().float().cpu())
        if logits is not None:
            self._logits.append(logits.detach().float().cpu())
        self._statistics = None

    @property
    def pooled(self) -> Tensor | None:
        """(N, D) float32, or None where only the statistics are known."""
        if len(self._pooled) > 1:
            self._pooled = [torch.cat(self._pooled)]
        return self._pooled[0] if self._pooled else None

    @property
    def logits(self) -> Tensor | None:
        """(N, C) float32, or None without a classifier."""
        if len(self._logits) > 1:
            self._logits = [torch.cat(self._logits)]
        return self._logits[0] if self._logits else None

    @property
    def statistics(self) -> Statistics:
        """Mean and covariance of all of them."""
        if self._statistics is None:
            if self.pooled is None:
                raise ValueError("no features were added")
            self._statistics = self.part(torch.arange(len(self.pooled)))
        return self._statistics

    @property
    def count(self) -> int:
        """N."""
        return self.statistics.count if self.pooled is None else len(self.pooled)

    def part(self, rows: Tensor) -> Statistics:
        """Take the statistics of some rows, which may repeat."""
        assert self.pooled is not None
        made = Statistics(self.provenance, self.pooled.shape[1], self.facts)
        for chunk in rows.split(CHUNK):
            made.update(self.pooled[chunk])
        return made

    def save(self, path: Path) -> None:
        """Write the features beside their statistics as .npz."""
        parts = {"features": self.pooled, "logits": self.logits}
        arrays = {name: part.numpy() for name, part in parts.items() if part is not None}
        self.statistics.save(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> FeatureSet:
        """Read what `save` wrote, or statistics alone; errors as of `Statistics.load`."""
        arrays = _arrays(path)
        statistics = _statistics(path, arrays)
        made = cls(statistics.provenance, statistics.images)
        if "features" in arrays:
            logits = torch.from_numpy(arrays["logits"]) if "logits" in arrays else None
            made.add(torch.from_numpy(arrays["features"]), logits)
        made._statistics = statistics
        return made


def require_same(first: Statistics | FeatureSet, second: Statistics | FeatureSet) -> None:
    """Refuse to compare features that were made differently or belong to different data.

    Raises:
        MixedStatisticsError: naming what differs.
    """
    ours, theirs = asdict(first.provenance), asdict(second.provenance)
    own, other = _facts(first), _facts(second)
    differing = [f"{k}: {ours[k]} against {theirs[k]}" for k in ours if ours[k] != theirs[k]]
    differing += [
        f"{k}: {own[k]} against {other[k]}"
        for k in COMPARED
        if k in own and k in other and own[k] != other[k]
    ]
    if differing:
        raise MixedStatisticsError("statistics of different features: " + "; ".join(differing))


def _facts(made: Statistics | FeatureSet) -> Mapping[str, Any]:
    return made.images if isinstance(made, Statistics) else made.facts


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file of feature statistics")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: cannot be read as feature statistics ({error}); delete it"
        ) from error


def _statistics(path: Path, arrays: Mapping[str, np.ndarray]) -> Statistics:
    missing = {"mu", "sigma", "count", "facts"} - arrays.keys()
    if missing:
        raise MixedStatisticsError(
            f"{path}: has no {', '.join(sorted(missing))}, so what its numbers are of is not "
            "known; compute the statistics here instead"
        )
    facts = json.loads(str(arrays["facts"]))
    mean = torch.from_numpy(arrays["mu"]).double()
    made = Statistics(Provenance(**facts["provenance"]), len(mean), facts["images"])
    made.count = int(arrays["count"])
    made._sum = mean * made.count
    sigma = torch.from_numpy(arrays["sigma"]).double()
    made._outer = sigma * (made.count - 1) + made.count * torch.outer(mean, mean)
    return made
