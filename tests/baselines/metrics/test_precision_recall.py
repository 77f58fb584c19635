import pytest
import torch

from baselines.metrics.precision_recall import precision_recall
from tests.baselines.metrics.clouds import cloud


def by_hand(points, centres, neighbours):
    held = []
    for point in points:
        inside = False
        for place, centre in enumerate(centres):
            others = sorted(float((centre - c).norm()) for n, c in enumerate(centres) if n != place)
            inside |= float((point - centre).norm()) <= others[neighbours - 1]
        held.append(inside)
    return held


@pytest.mark.parametrize("neighbours", [1, 3])
def test_equals_the_definition(neighbours):
    real, fake = cloud(25, 3, 0), cloud(18, 3, 1)
    precision, recall = precision_recall(real, fake, neighbours=neighbours)
    assert precision.tolist() == by_hand(fake, real, neighbours)
    assert recall.tolist() == by_hand(real, fake, neighbours)


def test_collapse_costs_recall_and_not_precision():
    real = cloud(200, 4, 0)
    fake = real[:1] + 1e-3 * cloud(200, 4, 1)
    precision, recall = (held.double().mean() for held in precision_recall(real, fake))
    assert precision == 1.0 and recall < 0.05


def test_equals_torch_fidelity():
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = cloud(90, 6, 0).float(), cloud(70, 6, 1).float()
    expected = metric.calculate_precision_recall_full(fake, real, 3)
    found = [float(held.double().mean()) for held in precision_recall(real, fake)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_too_few_images_are_named():
    with pytest.raises(ValueError, match="3 real and 9 drawn images: expected more than 3"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))
