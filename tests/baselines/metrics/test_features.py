import math

import numpy as np
import pytest
import torch

from baselines.errors import UserError
from baselines.metrics.features import FeatureSet, MixedStatisticsError, Statistics
from baselines.metrics.fid import frechet_distance
from tests.baselines.metrics.clouds import DAMSM, Provenance, cloud, statistics


def test_mean_and_covariance_are_those_of_numpy():
    features = cloud(97, 5, 0) + 100
    made = statistics(features)
    assert made.count == 97
    np.testing.assert_allclose(made.mean, features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(made.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-9)
    halves = statistics(features[:40]).merged(statistics(features[40:]))
    np.testing.assert_allclose(halves.covariance, made.covariance, rtol=1e-9)


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


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("data", ({"name": "cub"}, {"name": "coco"})),
        ("fingerprint", ("aa", "bb")),
        ("split", ("train", "test")),
        ("size", (64, 256)),
    ],
)
def test_features_of_different_images_are_not_mixed(key, values):
    first, second = (
        statistics(cloud(9, 3, seed), images={key: value, "images": seed})
        for seed, value in enumerate(values)
    )
    with pytest.raises(MixedStatisticsError, match=rf"{key}: .* against"):
        frechet_distance(first, second)
    # What one side does not say is no contradiction, nor is the number of images.
    frechet_distance(first, statistics(cloud(9, 3, 2), images={"images": 9}))


def test_statistics_survive_their_file(tmp_path):
    made = statistics(cloud(40, 6, 4) + 3)
    made.save(tmp_path / "reference.npz")
    read = Statistics.load(tmp_path / "reference.npz")
    assert (read.provenance, read.images, read.count) == (DAMSM, {"split": "test"}, 40)
    other = statistics(cloud(30, 6, 5))
    assert frechet_distance(read, other) == pytest.approx(frechet_distance(made, other), rel=1e-9)


def test_features_survive_their_file_with_their_logits(tmp_path):
    made = FeatureSet(DAMSM, {"split": "test"})
    for seed in range(3):
        made.add(cloud(7, 4, seed), cloud(7, 2, seed + 9))
    made.save(tmp_path / "reference.npz")
    read = FeatureSet.load(tmp_path / "reference.npz")
    assert (read.provenance, read.facts, read.count) == (DAMSM, {"split": "test"}, 21)
    assert torch.equal(read.pooled, made.pooled) and torch.equal(read.logits, made.logits)
    part = made.part(torch.tensor([0, 0, 8, 20]))
    expected = np.cov(made.pooled[[0, 0, 8, 20]].double().numpy(), rowvar=False)
    np.testing.assert_allclose(part.covariance, expected, rtol=1e-6)


def test_a_file_of_statistics_alone_has_no_features(tmp_path):
    statistics(cloud(40, 6, 4)).save(tmp_path / "reference.npz")
    read = FeatureSet.load(tmp_path / "reference.npz")
    assert read.pooled is None and read.count == 40


def test_a_file_that_does_not_say_whose_features_it_holds_is_refused(tmp_path):
    np.savez(tmp_path / "val.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(MixedStatisticsError, match=r"val.npz: has no count, facts"):
        Statistics.load(tmp_path / "val.npz")
    (tmp_path / "text.npz").write_text("nothing of the kind")
    with pytest.raises(UserError, match=r"text.npz: cannot be read"):
        Statistics.load(tmp_path / "text.npz")
    with pytest.raises(UserError, match="no such file"):
        FeatureSet.load(tmp_path / "none.npz")


def test_broken_features_give_nan_and_not_a_number_that_looks_good():
    broken = cloud(20, 4, 0)
    broken[3, 2] = math.nan
    assert math.isnan(frechet_distance(statistics(broken), statistics(cloud(20, 4, 1))))
