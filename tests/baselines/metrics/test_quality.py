import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from baselines.metrics.quality import (
    MixedStatisticsError,
    Provenance,
    Statistics,
    few_images_warning,
    frechet_distance,
    inception_score,
)

DAMSM = Provenance("damsm", "aa", "plain")


def statistics(features, provenance=DAMSM, parts=3):
    made = Statistics(provenance, features.shape[1], {"split": "test"})
    for part in features.chunk(parts):
        made.update(part)
    return made


def cloud(count, dimension, seed):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimension, dimension, generator=g, dtype=torch.float64)
    return torch.randn(count, dimension, generator=g, dtype=torch.float64) @ mix


def exact(mean, covariance, count=1000):
    """Features whose sample mean and covariance are just these."""
    dimension = len(mean)
    white = cloud(count, dimension, 7)
    white -= white.mean(0)
    root = torch.linalg.cholesky(torch.cov(white.T))
    white = torch.linalg.solve_triangular(root, white.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def test_mean_and_covariance_are_those_of_numpy():
    features = cloud(97, 5, 0) + 100
    made = statistics(features)
    assert made.count == 97
    np.testing.assert_allclose(made.mean, features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(made.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-9)
    halves = statistics(features[:40]).merged(statistics(features[40:]))
    np.testing.assert_allclose(halves.covariance, made.covariance, rtol=1e-9)


def test_distance_of_diagonal_gaussians_has_a_closed_form():
    means = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([1.0, 1.0, 0.5]).double()
    spreads = torch.tensor([1.0, 4.0, 0.25]).double(), torch.tensor([9.0, 1.0, 0.25]).double()
    sets = [statistics(exact(m, torch.diag(s))) for m, s in zip(means, spreads, strict=True)]
    expected = (means[0] - means[1]).square().sum()
    expected += (spreads[0].sqrt() - spreads[1].sqrt()).square().sum()
    assert frechet_distance(*sets) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(*sets[::-1]) == pytest.approx(float(expected), rel=1e-9)


def test_distance_of_any_gaussians_is_that_of_scipys_matrix_root():
    first, second = cloud(400, 12, 1), cloud(300, 12, 2) + 0.3
    a, b = np.cov(first.numpy(), rowvar=False), np.cov(second.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    offset = first.numpy().mean(0) - second.numpy().mean(0)
    expected = offset @ offset + np.trace(a + b - 2 * root)
    assert frechet_distance(statistics(first), statistics(second)) == pytest.approx(expected, 1e-8)


@pytest.mark.parametrize("counts", [(200, 150), (8, 9)])
def test_distance_is_torchmetrics_with_singular_covariances_too(counts):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(nn.Identity):
        num_features = 32

    first, second = cloud(counts[0], 32, 1), cloud(counts[1], 32, 2)
    metric = FrechetInceptionDistance(feature=Given(), normalize=True)
    metric.update(first, real=True)
    metric.update(second, real=False)
    expected = float(metric.compute())
    assert frechet_distance(statistics(first), statistics(second)) == pytest.approx(expected, 1e-6)


def test_a_set_is_at_no_distance_from_itself():
    features = cloud(50, 64, 3)
    assert abs(frechet_distance(statistics(features), statistics(features))) < 1e-3


def test_broken_features_give_nan_and_not_a_number_that_looks_good():
    broken = cloud(20, 4, 0)
    broken[3, 2] = math.nan
    assert math.isnan(frechet_distance(statistics(broken), statistics(cloud(20, 4, 1))))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Provenance("inception-2015", "aa", "plain"), "extractor: damsm against inception-2015"),
        (Provenance("damsm", "bb", "plain"), "weights: aa against bb"),
        (Provenance("damsm", "aa", "8 bit"), "preprocessing: plain against 8 bit"),
    ],
)
def test_features_of_different_making_are_not_mixed(other, message):
    first, second = statistics(cloud(9, 3, 0)), statistics(cloud(9, 3, 1), other)
    with pytest.raises(MixedStatisticsError, match=message):
        frechet_distance(first, second)
    with pytest.raises(MixedStatisticsError, match=message):
        first.merged(second)


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="two images or more"):
        frechet_distance(statistics(cloud(1, 3, 0), parts=1), statistics(cloud(5, 3, 0)))


def test_statistics_survive_their_file(tmp_path):
    made = statistics(cloud(40, 6, 4) + 3)
    made.save(tmp_path / "reference.npz")
    read = Statistics.load(tmp_path / "reference.npz")
    assert (read.provenance, read.images, read.count) == (DAMSM, {"split": "test"}, 40)
    other = statistics(cloud(30, 6, 5))
    assert frechet_distance(read, other) == pytest.approx(frechet_distance(made, other), rel=1e-9)


def test_a_file_that_does_not_say_whose_features_it_holds_is_refused(tmp_path):
    np.savez(tmp_path / "val.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(MixedStatisticsError, match=r"val.npz: has no count, facts"):
        Statistics.load(tmp_path / "val.npz")
    (tmp_path / "text.npz").write_text("nothing of the kind")
    with pytest.raises(ValueError, match=r"text.npz: cannot be read"):
        Statistics.load(tmp_path / "text.npz")


def test_sure_and_evenly_spread_classes_score_their_number():
    logits = 60.0 * torch.eye(4).repeat(100, 1)
    mean, std = inception_score(logits, seed=0, splits=1)
    assert (mean, std) == (pytest.approx(4.0, rel=1e-6), 0.0)


def test_images_that_tell_nothing_score_one():
    mean, std = inception_score(torch.randn(1, 5).expand(50, 5), seed=0)
    assert mean == pytest.approx(1.0) and std == pytest.approx(0.0, abs=1e-9)


def test_inception_score_is_its_definition_and_leaves_the_global_generator_alone():
    logits = cloud(60, 7, 8)
    p = scipy.special.softmax(logits.numpy(), axis=1)
    divergence = (p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()
    before = torch.get_rng_state()
    assert inception_score(logits, seed=1, splits=1)[0] == pytest.approx(np.exp(divergence))
    assert inception_score(logits, seed=1) == inception_score(logits, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_few_images_are_said_loudly():
    assert "WARNING" in few_images_warning(29_999) and "29,999" in few_images_warning(29_999)
    assert few_images_warning(30_000) == ""
