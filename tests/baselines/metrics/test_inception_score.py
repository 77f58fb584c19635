import numpy as np
import pytest
import scipy.special
import torch

from baselines.metrics.inception_score import inception_score
from tests.baselines.metrics.clouds import cloud


def test_sure_and_evenly_spread_classes_score_their_number():
    logits = 60.0 * torch.eye(4).repeat(100, 1)
    mean, std, _ = inception_score(logits, seed=0, splits=1)
    assert (mean, std) == (pytest.approx(4.0, rel=1e-6), 0.0)


def test_images_that_tell_nothing_score_one():
    mean, std, _ = inception_score(torch.randn(1, 5).expand(50, 5), seed=0)
    assert mean == pytest.approx(1.0) and std == pytest.approx(0.0, abs=1e-9)


def test_inception_score_is_its_definition_and_leaves_the_global_generator_alone():
    logits = cloud(60, 7, 8)
    p = scipy.special.softmax(logits.numpy(), axis=1)
    divergence = (p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()
    before = torch.get_rng_state()
    assert inception_score(logits, seed=1, splits=1)[0] == pytest.approx(np.exp(divergence))
    assert inception_score(logits, seed=1) == inception_score(logits, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_spread_is_that_of_numpy_over_the_splits_there_are():
    logits = cloud(46, 5, 1)
    order = np.array_split(np.arange(46), 10)
    torch.manual_seed(2)
    p = scipy.special.softmax(logits[torch.randperm(46)].numpy(), axis=1)
    # torchmetrics cuts by chunks of equal size, the last one smaller.
    parts = torch.from_numpy(p).chunk(10)
    values = [float((q * (q.log() - q.mean(0).log())).sum(1).mean().exp()) for q in parts]
    found = inception_score(logits, seed=2)
    assert found.splits == len(values) == len(order)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-6)
    assert found.std == pytest.approx(np.std(values), rel=1e-6)
    assert inception_score(logits[:9], seed=0).splits == 4
