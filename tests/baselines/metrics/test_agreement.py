import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.metrics.agreement import agreement


def value(found, kind):
    held, count = found[kind]
    return (held / count).tolist()


@given(seed=st.integers(0, 2**31), words=st.integers(1, 5), height=st.integers(1, 6))
def test_equals_looking_element_by_element(seed, words, height):
    g = torch.Generator().manual_seed(seed)
    ours, theirs = (torch.rand(2, words, height, 4, generator=g) for _ in range(2))
    lengths = torch.randint(1, words + 1, (2,), generator=g)
    found = agreement(ours, theirs, lengths, gamma=0.3)
    for b in range(2):
        length = int(lengths[b])
        a, r = ours[b, :length].double().numpy(), theirs[b, :length].double().numpy()
        assert value(found, "difference")[b] == pytest.approx(np.abs(a - r).mean())
        assert value(found, "hard")[b] == pytest.approx((np.abs(a - r) >= 0.3).mean())
        overlaps = []
        for t in range(length):
            first, second = a[t] >= 0.5 * a[t].max(), r[t] >= 0.5 * r[t].max()
            overlaps.append((first & second).sum() / (first | second).sum())
        assert value(found, "overlap")[b] == pytest.approx(np.mean(overlaps))


def test_the_same_layout_agrees_and_padding_says_nothing():
    layout = torch.rand(3, 4, 5, 5)
    other = layout.clone()
    other[:, 2:] = torch.rand(3, 2, 5, 5)
    found = agreement(layout, other, torch.tensor([2, 2, 1]), gamma=0.1)
    assert value(found, "difference") == value(found, "hard") == [0.0] * 3
    assert value(found, "overlap") == [1.0] * 3


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 3\) and \(1, 2, 4, 4\)"):
        agreement(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 4, 4), torch.ones(1), gamma=0.1)
