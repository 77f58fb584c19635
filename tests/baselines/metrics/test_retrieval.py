import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.metrics.retrieval import RANKS, retrieval


def by_hand(codes, sentences, image_of):
    """Sort every list of candidates, in float64 and one query at a time."""
    codes = torch.nn.functional.normalize(codes.double(), dim=1)
    sentences = torch.nn.functional.normalize(sentences.double(), dim=1)
    scores = codes @ sentences.T
    result = {}
    for k in RANKS:
        hits = [
            any(image_of[j] == i for j in scores[i].argsort(descending=True)[:k].tolist())
            for i in range(len(codes))
        ]
        result[f"image_to_text/R@{k}"] = sum(hits) / len(hits)
        hits = [
            image_of[j] in scores[:, j].argsort(descending=True)[:k].tolist()
            for j in range(len(sentences))
        ]
        result[f"text_to_image/R@{k}"] = sum(hits) / len(hits)
    return result


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31), images=st.integers(1, 30), extra=st.integers(0, 40),
    chunk=st.integers(1, 50),
)  # fmt: skip
def test_equals_sorting_by_hand_for_any_chunk(seed, images, extra, chunk):
    g = torch.Generator().manual_seed(seed)
    image_of = torch.cat([torch.arange(images), torch.randint(images, (extra,), generator=g)])
    codes = torch.randn(images, 6, generator=g, dtype=torch.float64)
    sentences = codes[image_of] + torch.randn(len(image_of), 6, generator=g, dtype=torch.float64)
    got = retrieval(codes, sentences, image_of, chunk=chunk)
    assert got == pytest.approx(by_hand(codes, sentences, image_of.tolist()))


def test_one_of_several_captions_is_enough():
    codes = torch.eye(12)
    far = -torch.eye(12)
    got = retrieval(codes, torch.cat([far, codes]), torch.arange(12).repeat(2))
    assert got["image_to_text/R@1"] == 1.0
    assert got["text_to_image/R@1"] == 0.5


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_collapsed_or_broken_encoders_do_not_score(value):
    same = torch.full((20, 4), value)
    assert set(retrieval(same, same, torch.arange(20)).values()) == {0.0}


@pytest.mark.parametrize(
    ("codes", "sentences", "image_of", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), [0, 1], "one width"),
        (torch.zeros(2, 3), torch.zeros(2, 3), [0], "one index for each"),
        (torch.zeros(2, 3), torch.zeros(2, 3), [0, 2], "must index the 2 codes"),
        (torch.zeros(2, 3), torch.zeros(2, 3), [0, 0], "image 1 has no sentence"),
    ],
)
def test_bad_input_is_named(codes, sentences, image_of, message):
    with pytest.raises(ValueError, match=message):
        retrieval(codes, sentences, image_of)
