"""From measurements to rows: means over seeds, differences paired by seed, bootstrap intervals."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

RESAMPLES = 10_000
REACHED = 0.9  # of stated places

Entry = Mapping[str, Any]
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    spread: standard deviation over seeds; low, high: 95 % bootstrap interval of the mean; NaN
    where one seed is all there is. count: seeds.
    """

    mean: float
    spread: float
    low: float
    high: float
    count: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.spread / math.sqrt(self.count) if self.count else math.nan


def estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean, spread and bootstrap interval of what the seeds gave; NaN values are left out.

    >>> estimate([0.5, 0.7]).mean
    0.6
    """
    values = [value for value in values if math.isfinite(value)]
    if len(values) < 2:
        mean = values[0] if values else math.nan
        return Estimate(mean, math.nan, math.nan, math.nan, len(values))
    rng = random.Random(seed)
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    low, high = means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]
    return Estimate(statistics.fmean(values), statistics.stdev(values), low, high, len(values))


def paired(ours: Mapping[int, float], control: Mapping[int, float]) -> Estimate:
    """The difference to the control over the seeds that both have."""
    return estimate([ours[seed] - control[seed] for seed in sorted(ours.keys() & control.keys())])


def interpolated(curve: Curve, at: float) -> float:
    """The value at `at` of a curve given by points in order; NaN outside of it."""
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 <= at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return math.nan


def reached(curve: Curve, threshold: float = REACHED) -> float:
    """Where a curve first comes to `threshold`, between its points linearly; NaN if it never does.

    >>> reached([(0, 0.0), (10, 1.0)], 0.25)
    2.5
    """
    before = None
    for x, y in curve:
        if y >= threshold:
            if before is None:
                return x
            x0, y0 = before
            return x0 + (x - x0) * (threshold - y0) / (y - y0)
        before = x, y
    return math.nan


def curve(entries: Sequence[Entry], x: str, row: str) -> Curve:
    """A graded row of one run against `x` ("images" or "cpu_seconds"), in order."""
    points = [
        (float(entry[x]), float(entry["graded"][row]))
        for entry in entries
        if entry.get(x) is not None and entry["graded"].get(row) is not None
    ]
    return sorted(points)
