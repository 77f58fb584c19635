import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from baselines.metrics.features import FeatureSet
from baselines.metrics.fid import FrechetMetric, frechet_distance
from baselines.metrics.spec import EvaluationContext, ImageSet
from tests.baselines.metrics.clouds import DAMSM, cloud, statistics


def exact(mean, covariance, count=1000):
    """Features whose sample mean and covariance are just these."""
    dimension = len(mean)
    white = cloud(count, dimension, 7)
    white -= white.mean(0)
    root = torch.linalg.cholesky(torch.cov(white.T))
    white = torch.linalg.solve_triangular(root, white.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


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


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="two images or more"):
        frechet_distance(statistics(cloud(1, 3, 0), parts=1), statistics(cloud(5, 3, 0)))


def feature_set(features):
    made = FeatureSet(DAMSM)
    made.add(features, None)
    return made


def scores(real, drawn, count=None):
    context = EvaluationContext(source=None, pairs=None, size=32, seed=0, drawn=len(drawn))
    context.reference["damsm"] = feature_set(real)
    kinds = {"real": ImageSet("real", len(real), real=True), "drawn": ImageSet("x", len(drawn))}
    kinds["drawn"].features["damsm"] = feature_set(drawn)
    return {name: FrechetMetric(context, images).scores() for name, images in kinds.items()}


@pytest.mark.parametrize("drawn", [40, 120, 400])
def test_the_floor_is_of_as_many_images_as_what_is_held_against_it(drawn):
    features = cloud(240 + drawn, 6, 0)
    found = scores(features[:240], features[240:])
    floor, equal = (found[name]["fid/damsm/equal"] for name in ("real", "drawn"))
    assert floor.count == equal.count == min(drawn, 120)
    half = statistics(features[:240:2].float())
    assert floor.value == pytest.approx(
        frechet_distance(statistics(features[1:240:2][: floor.count].float()), half), rel=1e-6
    )
    assert equal.value == pytest.approx(
        frechet_distance(statistics(features[240 : 240 + equal.count].float()), half), rel=1e-6
    )
    # The real images' own distance would be that of a set from itself.
    assert "fid/damsm" not in found["real"]


def test_images_like_the_real_ones_reach_the_floor_and_others_do_not():
    features = cloud(900, 6, 0)
    same = scores(features[:600], features[600:])
    assert same["drawn"]["fid/damsm/equal"].value < 2 * same["real"]["fid/damsm/equal"].value
    moved = scores(features[:600], features[600:] + 1.0)
    assert moved["drawn"]["fid/damsm/equal"].value > 5 * moved["real"]["fid/damsm/equal"].value


def test_the_interval_is_as_wide_as_repeated_draws_scatter():
    everything = cloud(60 * 300 + 300, 4, 3)
    real, rest = everything[:300], everything[300:]
    values = [
        frechet_distance(statistics(part.float()), statistics(real.float()))
        for part in rest.split(300)
    ]
    found = scores(real, rest[:300])["drawn"]["fid/damsm"]
    low, high = found.interval
    assert low < found.value < high
    # The bootstrap moves both sides, the repeated draws one of them.
    assert 0.7 * np.std(values) < found.error < 4 * np.std(values)
