from types import SimpleNamespace

import numpy as np
import pytest
import torch

from baselines.metrics import kid
from baselines.metrics.kid import block_error, kernel_distance
from tests.baselines.metrics.clouds import cloud


def by_hand(x, y):
    """The unbiased estimate, pair by pair."""
    dimension = x.shape[1]

    def kernel(a, b):
        return (float(a @ b) / dimension + 1) ** 3

    m, n = len(x), len(y)
    within = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    other = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(kernel(x[i], y[j]) for i in range(m) for j in range(n)) / (m * n)
    return within + other - 2 * across


def test_one_subset_of_everything_is_the_sum_over_pairs():
    real, fake = cloud(12, 5, 0), cloud(12, 5, 1) + 0.5
    found = kernel_distance(real, fake, seed=0)
    assert (found.subsets, found.size) == (1, 12)
    assert found.mean == pytest.approx(by_hand(real.numpy(), fake.numpy()), rel=1e-6)


def test_it_is_unbiased_whatever_the_number():
    everything = cloud(4000, 4, 2)
    values = [kernel_distance(part[:10], part[10:], seed=0).mean for part in everything.split(20)]
    assert abs(np.mean(values)) < 4 * np.std(values) / len(values) ** 0.5


def test_subsets_follow_from_the_seed_and_leave_the_global_generator_alone():
    real, fake = cloud(60, 4, 0), cloud(40, 4, 1)
    before = torch.get_rng_state()
    first = kernel_distance(real, fake, seed=1, subsets=5)
    assert first == kernel_distance(real, fake, seed=1, subsets=5)
    assert (first.subsets, first.size) == (5, 40)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("offset", [0.0, 0.6])
def test_the_error_covers_what_repeated_draws_scatter_and_not_much_more(offset):
    values, errors = [], []
    for part in cloud(20 * 400, 4, 3).split(400):
        real, fake = part[:200], part[200:] + offset
        values.append(kernel_distance(real, fake, seed=0).mean)
        errors.append(block_error(real, fake, seed=0))
    scatter, typical = np.std(values, ddof=1), np.mean(errors)
    assert 0.8 * scatter < typical < 4 * scatter
    assert block_error(real, fake[:79], seed=0) is None


@pytest.mark.parametrize(("real", "fake", "rows"), [(2, 2, 1), (1, 9, 0), (9, 1, 0)])
def test_two_images_of_each_kind_are_the_least(monkeypatch, real, fake, rows):
    pairs = [("damsm", cloud(real, 3, seed=0), cloud(fake, 3, seed=1))]
    monkeypatch.setattr(kid, "compared_features", lambda context, images: pairs)
    metric = kid.KernelDistanceMetric(SimpleNamespace(seed=0), None)
    assert len(metric.scores()) == rows
