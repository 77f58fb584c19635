import math

import pytest
import torch

from baselines.metrics.image_text import counting_alignment, positional_alignment


class Brightness:
    """Prefers a caption by the mean of the image: known logits."""

    def __call__(self, images, texts):
        assert all(len(pair) == 2 for pair in texts)
        level = images.mean(dim=(1, 2, 3))
        return torch.stack([level, torch.zeros_like(level)], dim=1)


def case(logit):
    return torch.full((3, 2, 2), logit), "true", "false"


def test_an_image_is_aligned_above_six_tenths():
    edge = math.log(0.6 / 0.4)
    cases = {
        "above": [case(edge + 1e-3), case(edge - 1e-3), case(5.0), case(-5.0)],
        "left": [case(5.0)],
    }
    found = positional_alignment(Brightness(), cases, batch_size=3)
    assert found["pa/above"].value == 0.5 and found["pa/left"].value == 1.0
    # The plain mean over words, not over images.
    assert found["pa"].value == 0.75 and found["pa"].count == 2


def test_counting_is_a_root_mean_square_over_what_the_caption_counts():
    found = counting_alignment([{"dog": 3, "cup": 9}, {}], [{"dog": 1, "cat": 1}, {"cat": 2}])
    assert found.value == pytest.approx((math.sqrt((4 + 1) / 2) + 2) / 2)
    with pytest.raises(ValueError, match="counts something"):
        counting_alignment([{}], [{}])
