"""Batches: what they hold, and that nothing but (seed, position) decides it."""

import pickle
from collections import Counter
from itertools import islice

import pytest
import torch

from baselines.data.loader import (
    Batch,
    EvaluationView,
    PositionSampler,
    TrainingView,
    evaluation_loader,
    pyramid,
    training_loader,
)
from baselines.data.source import DataError
from baselines.data.vocabulary import Vocabulary, tokenize
from tests.baselines.data.makers import Toy

WORDS = Vocabulary.build(caption for index in range(7) for caption in Toy().captions(index))
PARTS = ("images", "captions", "lengths", "class_ids", "caption_indices", "lengths_cpu")


def batches(count, *, images=7, seed=3, batch_size=3, **options):
    loader = training_loader(
        Toy(images), WORDS, size=4, max_words=5, batch_size=batch_size, seed=seed, **options
    )
    return list(islice(loader, count))


def assert_same(first, second):
    assert len(first) == len(second)
    for mine, theirs in zip(first, second, strict=True):
        assert mine.keys == theirs.keys
        for part in PARTS:
            assert torch.equal(getattr(mine, part), getattr(theirs, part)), part


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_count_changes_nothing(workers):
    assert_same(batches(8), batches(8, workers=workers))


@pytest.mark.parametrize("start", [1, 2, 5])
def test_any_start_continues_the_same_run(start):
    assert_same(batches(8)[start:], batches(8 - start, start_batch=start))


def test_resume_with_other_workers_midway():
    assert_same(batches(6)[4:], batches(2, start_batch=4, workers=2))


def test_seeds_differ():
    first, second = batches(2), batches(2, seed=4)
    assert not torch.equal(first[0].images, second[0].images)
    assert first[0].keys + first[1].keys != second[0].keys + second[1].keys


def test_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = batches(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(first, batches(2))


def test_ranks_share_the_positions_of_one_process():
    whole = batches(4, batch_size=4)
    ranks = [batches(4, batch_size=2, rank=rank, world=2) for rank in range(2)]
    for number, batch in enumerate(whole):
        for rank in range(2):
            part = ranks[rank][number]
            assert part.keys == batch.keys[rank::2]
            assert torch.equal(part.images, batch.images[rank::2])
            assert torch.equal(part.captions, batch.captions[rank::2])


def test_ranks_resume_together():
    assert_same(batches(4, rank=1, world=2)[2:], batches(2, rank=1, world=2, start_batch=2))


def test_every_epoch_shows_every_image_once_in_another_order():
    pairs = list(islice(PositionSampler(7, seed=0), 21))
    assert [position for _, position in pairs] == list(range(21))
    epochs = [[index for index, _ in pairs[start : start + 7]] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_positions_of_a_start_and_a_rank():
    whole = list(islice(PositionSampler(5, seed=1), 30))
    part = list(islice(PositionSampler(5, seed=1, start=4, rank=2, world=3), 8))
    assert part == whole[6:28:3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length is 0"),
        ({"length": 2, "world": 0}, "world is 0"),
        ({"length": 2, "start": -1}, "start=-1"),
        ({"length": 2, "rank": 2, "world": 2}, "rank=2"),
    ],
)
def test_sampler_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        PositionSampler(options.pop("length"), seed=0, **options)


@pytest.mark.parametrize("name", ["size", "max_words", "batch_size", "start_batch"])
def test_loader_refuses_negative_numbers(name):
    options = {"size": 4, "max_words": 5, "batch_size": 2, "start_batch": 0, name: -1}
    with pytest.raises(ValueError, match=f"{name} is -1"):
        training_loader(Toy(), WORDS, seed=0, **options)


def test_batch_has_fixed_width_and_says_what_it_holds():
    for batch in batches(6):
        assert batch.images.shape == (3, 3, 4, 4) and batch.images.dtype == torch.float32
        assert batch.captions.shape == (3, 5) and batch.captions.dtype == torch.int64
        assert torch.equal((batch.captions != 0).sum(1), batch.lengths)
        for row, key in enumerate(batch.keys):
            index = int(key.split("/")[1])
            assert batch.class_ids[row] == index // 2
            words = WORDS.decode(batch.captions[row])
            text = Toy().captions(index)[batch.caption_indices[row]]
            if len(tokenize(text)) <= 5:
                assert words == tokenize(text)


def test_over_long_captions_are_thinned_in_order():
    view = TrainingView(Toy(), WORDS, size=4, max_words=5, seed=0)
    seen = set()
    for position in range(200):
        item = view[0, position]
        assert item.caption_index != 1, "the wordless caption"
        if item.caption_index == 0:
            words = WORDS.decode(item.ids)
            assert len(words) == 5 and words == sorted(words)
            seen.add(tuple(words))
    assert len(seen) > 30, "of 56 subsets"
    assert {word for words in seen for word in words} == {f"w{n}" for n in range(8)}


def test_captions_are_drawn_uniformly():
    view = TrainingView(Toy(), WORDS, size=4, max_words=5, seed=0)
    drawn = Counter(view[2, position].caption_index for position in range(900))
    assert set(drawn) == {0, 1, 2}
    assert all(240 < count < 360 for count in drawn.values()), drawn


def test_image_without_a_usable_caption_is_named():
    view = TrainingView(Toy(), Vocabulary(["x"], unknown=False), size=4, max_words=5, seed=0)
    with pytest.raises(DataError, match=r"'toy/3' of toy has no caption.*--skip-broken"):
        view[3, 0]


def test_evaluation_shows_every_usable_pair_once_in_order():
    loader = evaluation_loader(Toy(split="test"), WORDS, size=4, max_words=5, batch_size=4)
    pairs = []
    for batch in loader:
        pairs += zip(batch.keys, batch.caption_indices.tolist(), strict=True)
        for row, key in enumerate(batch.keys):
            assert torch.equal(batch.images[row], Toy().image(int(key[4:]), 4))
    expected = [(0, 0), (0, 2)] + [(i, n) for i in range(1, 7) for n in range(1 + i % 3)]
    assert pairs == [(f"toy/{index}", number) for index, number in expected]
    again = list(evaluation_loader(Toy(), WORDS, size=4, max_words=5, batch_size=4, workers=2))
    assert_same(list(loader), again)


def test_evaluation_truncates_and_counts(caplog):
    known = Vocabulary.build(["w0 w1 w2 w3 w4 w5 w6 w7 two image caption"])
    with caplog.at_level("INFO"):
        view = EvaluationView(Toy(), known, size=4, max_words=5)
    assert known.decode(view[0].ids) == ["w0", "w1", "w2", "w3", "w4"]
    assert (view.truncated, view.dropped) == (1, 1)
    assert view.unknown["words"] == 1
    assert "1 captions cut to their first 5 words" in caplog.text
    assert "1 captions without a word" in caplog.text
    assert "not in the vocabulary" in caplog.text


def test_batch_keeps_lengths_on_the_cpu():
    batch = batches(1)[0].to("meta")
    assert batch.images.device.type == batch.lengths.device.type == "meta"
    assert batch.lengths_cpu.device.type == "cpu"
    assert batch.lengths_cpu.tolist() == batches(1)[0].lengths.tolist()
    assert len(batch) == 3


def test_batch_fills_in_lengths_cpu_and_pickles():
    batch = batches(1)[0]
    assert_same([batch], [pickle.loads(pickle.dumps(batch))])
    parts = {part: getattr(batch, part) for part in PARTS[:-1]}
    assert torch.equal(Batch(keys=batch.keys, **parts).lengths_cpu, batch.lengths)


def test_pyramid_keeps_the_largest_and_averages_the_rest():
    # A linear ramp: away from the border an antialiased reduction by 2 averages it exactly.
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(2, 3, 16, 16)
    small, middle, large = pyramid(ramp, (4, 8, 16))
    assert large is ramp
    assert small.shape == (2, 3, 4, 4) and middle.shape == (2, 3, 8, 8)
    assert torch.allclose(middle[..., 1:-1], torch.arange(2.5, 14, 2), atol=1e-5)
    assert pyramid(ramp, (16,)) == (ramp,)


def test_pyramid_is_antialiased():
    stripes = torch.tensor([-1.0, 1.0]).repeat(8).expand(1, 3, 16, 16)
    assert pyramid(stripes, (4, 16))[0][..., 1:-1].abs().max() < 0.15


@pytest.mark.parametrize("sizes", [(), (8, 4), (4, 8), (16, 4), (4, 32)])
def test_pyramid_refuses_other_sizes(sizes):
    with pytest.raises(ValueError, match="expected ascending sizes"):
        pyramid(torch.zeros(1, 3, 16, 16), sizes)


def test_pyramid_refuses_oblong_images():
    with pytest.raises(ValueError, match="square"):
        pyramid(torch.zeros(1, 3, 8, 16), (4, 16))


def test_an_order_of_the_source_is_followed():
    def backwards(rng):
        return torch.arange(6, -1, -1)

    pairs = list(islice(PositionSampler(7, seed=0, start=3, order=backwards), 8))
    assert [index for index, _ in pairs] == [3, 2, 1, 0, 6, 5, 4, 3]
    assert [position for _, position in pairs] == list(range(3, 11))
