import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from baselines.metrics.resampling import bootstrap, normal_interval, share


def test_independent_statements_have_the_binomial_error():
    hits = torch.arange(400) % 5 == 0
    value, error, (low, high) = share(hits, torch.ones(400))
    assert value == pytest.approx(0.2)
    assert error == pytest.approx(math.sqrt(0.2 * 0.8 / 399))
    assert low < 0.2 < high


@pytest.mark.parametrize(("hits", "count"), [(1, 20), (80, 400), (399, 400)])
def test_the_ends_of_the_interval_solve_the_score_equation(hits, count):
    """A rate at an end would miss what was seen by just the quantile of its own error."""
    value, error, interval = share(torch.arange(count) < hits, torch.ones(count))
    independent = value * (1 - value) / error**2
    for end in interval:
        own_error = math.sqrt(end * (1 - end) / independent)
        assert abs(value - end) / own_error == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-6)


def test_a_normal_interval_holds_95_per_cent():
    low, high = normal_interval(3.0, 0.5)
    assert NormalDist(3.0, 0.5).cdf(low) == pytest.approx(0.025, rel=1e-5)
    assert NormalDist(3.0, 0.5).cdf(high) == pytest.approx(0.975, rel=1e-5)


@pytest.mark.parametrize(("value", "error"), [(1.0, None), (1.0, math.inf), (math.nan, 0.1)])
def test_without_a_finite_error_there_is_no_normal_interval(value, error):
    assert normal_interval(value, error) is None


def test_statements_that_stand_or_fall_together_count_as_one():
    rng = np.random.default_rng(0)
    holds = torch.from_numpy(rng.random(100) < 0.5)
    once = share(holds, torch.ones(100))
    thrice = share(3 * holds, torch.full((100,), 3.0))
    assert thrice[:2] == pytest.approx(once[:2]) and thrice[2] == pytest.approx(once[2])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        rates = rng.beta(2, 6, size=60)  # pictures differ
        stated = rng.integers(1, 4, size=60)
        right = rng.binomial(stated, rates)
        _, _, (low, high) = share(torch.from_numpy(right), torch.from_numpy(stated))
        covered += low <= 0.25 <= high
    assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_alike_has_no_error_and_still_an_interval(value):
    found, error, (low, high) = share(torch.full((20,), value), torch.ones(20))
    assert found == value and error is None
    assert 0 <= low < high <= 1 and 0.1 < high - low < 0.2


def test_nothing_stated_is_not_a_number():
    assert math.isnan(share(torch.zeros(3), torch.zeros(3))[0])


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error = bootstrap(lambda rows, _: float(values[rows].mean()), (200, 1), seed=0, resamples=800)
    assert error == pytest.approx(float(values.std()) / 200**0.5, rel=0.1)
