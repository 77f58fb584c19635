"""Standard errors and intervals: of shares in closed form, of any statistic by bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

QUANTILE = 1.959964  # of a normal distribution, for 95 %
Interval = tuple[float, float]


def share(right: Tensor, stated: Tensor) -> tuple[float, float | None, Interval | None]:
    """Estimate Σ right / Σ stated over pictures: value, standard error, 95 % interval.

    What is stated of one picture stands or falls together, so the pictures are what varies: the
    error is that of a ratio of two sums over independent pictures,
    √(n / (n − 1) · Σ (right − value · stated)²) / Σ stated. The interval is Wilson's for as many
    independent statements as would have that error. NaN where nothing is stated; no error where
    all pictures are alike.

    Args:
        right: (N,) how much of what is stated holds, by picture; at most `stated`.
        stated: (N,) how much is stated.

    >>> value, error, interval = share(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    >>> value, error, [round(end, 3) for end in interval]
    (0.5, 0.5, [0.055, 0.945])
    """
    ours, total = right.double(), stated.double()
    below, pictures = float(total.sum()), int((total > 0).sum())
    if not below:
        return math.nan, None, None
    value = float(ours.sum()) / below
    if pictures < 2 or not math.isfinite(value):
        return value, None, None
    scatter = float((ours - value * total).square().sum())
    if scatter <= 0:
        # All alike: nothing to tell the spread from, but the interval is not a point.
        return value, None, _wilson(value, pictures)
    error = math.sqrt(pictures / (pictures - 1) * scatter) / below
    return value, error, _wilson(value, max(value * (1 - value), 1e-12) / error**2)


def _wilson(value: float, count: float) -> Interval:
    square = QUANTILE**2
    middle = (value + square / (2 * count)) / (1 + square / count)
    inside = max(0.0, value * (1 - value)) / count + square / (4 * count**2)
    reach = QUANTILE * math.sqrt(inside) / (1 + square / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap(
    statistic: Callable[[Tensor, Tensor], float],
    counts: tuple[int, int],
    *,
    seed: int,
    resamples: int,
) -> float:
    """Estimate the standard error of a statistic of two sets from resampled rows of both.

    Args:
        statistic: of (rows of the first set, rows of the second set).
        counts: how many rows each has.
        seed: of the resampling.
        resamples: how often.
    """
    rng = torch.Generator().manual_seed(seed)
    values = [
        statistic(*(torch.randint(count, (count,), generator=rng) for count in counts))
        for _ in range(resamples)
    ]
    return float(np.std(values, ddof=1))


def normal_interval(value: float, error: float | None) -> Interval | None:
    """Give the 95 % interval of an estimate with a normal error; None without one."""
    if error is None or not math.isfinite(error) or not math.isfinite(value):
        return None
    return value - QUANTILE * error, value + QUANTILE * error
