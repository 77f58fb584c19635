import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from baselines.data.scenes import Scenes
from baselines.data.vocabulary import Vocabulary
from baselines.metrics.layout import check_caption
from baselines.metrics.pairs import read_pairs
from baselines.metrics.r_precision import CandidateCaptions, ceiling, r_precision
from baselines.metrics.spec import EvaluationContext


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def score(codes, sentences, class_ids, seed=0, candidates=100):
    pool = CandidateCaptions(sentences, class_ids, candidates=candidates)
    hits = pool.hits(codes, sentences, class_ids, generator=generator(seed))
    return r_precision(hits, seed=seed)


def test_codes_equal_to_their_sentences_always_hit():
    sentences = torch.randn(250, 16, generator=generator())
    result = score(3.0 * sentences, sentences, torch.arange(250))
    assert (result.mean, result.std, result.images, result.folds) == (1.0, 0.0, 250, 10)


def test_random_codes_are_at_chance():
    sentences = torch.randn(4000, 16, generator=generator())
    codes = torch.randn(4000, 16, generator=generator(1))
    low, high = binom.interval(1 - 1e-6, 4000, 1 / 100)
    assert low / 4000 <= score(codes, sentences, torch.arange(4000)).mean <= high / 4000


def test_two_directions_have_a_closed_form():
    # Classes 0 and 1 point along x and y. An image of class 0 with a code along x beats any number
    # of captions along y; with a code along y it never does. So the score is the share along x.
    class_ids = torch.tensor([0, 1]).repeat_interleave(50)
    sentences = torch.eye(2)[class_ids]
    codes = sentences.clone()
    codes[:15] = torch.tensor([0.0, 1.0])
    codes[50:65] = torch.tensor([1.0, 0.0])
    assert score(codes, sentences, class_ids).mean == pytest.approx(0.7)


def test_the_number_of_candidates_sets_the_score_of_a_known_rank():
    # Every code ranks its own caption above exactly 80 % of the others: hit iff all k drawn are
    # among them, probability 0.8^k.
    count, wrong = 3000, 5
    values = torch.linspace(-1, 1, 1000)
    pool = CandidateCaptions(
        torch.stack([values, (1 - values**2).clamp(min=0).sqrt()], dim=1),
        torch.arange(1000),
        candidates=wrong + 1,
    )
    own = torch.tensor([[0.6, 0.8]]).expand(count, 2)
    hits = pool.hits(
        torch.tensor([[1.0, 0.0]]).expand(count, 2), own, torch.full((count,), -1),
        generator=generator(),
    )  # fmt: skip
    low, high = binom.interval(1 - 1e-6, count, 0.8**wrong)
    assert low <= int(hits.sum()) <= high


def test_a_tie_is_a_miss():
    same = torch.ones(30, 8)
    assert score(same, same, torch.arange(30)).mean == 0.0


@pytest.mark.parametrize("width", [64, 128, 256])
def test_a_tie_is_a_miss_whatever_the_rounding(width):
    # Captions that are the same to the bit; images that are not.
    sentences = torch.randn(1, width, generator=generator()).expand(500, width)
    codes = torch.randn(500, width, generator=generator(1))
    pool = CandidateCaptions(sentences, torch.arange(500))
    found = pool.outcomes(codes, sentences, torch.arange(500), generator=generator())
    assert not found.hits.any()
    # All of the hundred are alike: by lot one in a hundred is picked.
    assert torch.allclose(found.by_lot, torch.tensor(0.01, dtype=torch.float64))


def test_ties_by_lot_count_the_captions_that_are_as_near():
    # One of two other captions is the own one again.
    sentences = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    pool = CandidateCaptions(sentences, torch.arange(3), candidates=2)
    codes = torch.tensor([[1.0, 0.0]]).expand(4000, 2)
    own = torch.zeros(4000, dtype=torch.int64)
    found = pool.outcomes(codes, sentences[own], own, generator=generator())
    # Half of the draws give the same caption (by lot 1/2), half the other one (a hit).
    assert float(found.by_lot.mean()) == pytest.approx(0.75, abs=0.02)
    assert float(found.hits.double().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("captions", "candidates"), [(2, 100), (5, 4), (300, 100)])
def test_chance_is_that_of_the_candidates_there_are(captions, candidates):
    g = generator(captions)
    sentences = torch.randn(captions, 24, generator=g)
    ids = torch.arange(captions)
    pool = CandidateCaptions(sentences, ids, candidates=candidates)
    hits = []
    for _ in range(max(1, 30_000 // captions)):
        sentences = torch.randn(captions, 24, generator=g)
        fresh = CandidateCaptions(sentences, ids, candidates=candidates)
        codes = torch.randn(captions, 24, generator=g)
        hits.append(fresh.hits(codes, sentences, ids, generator=g))
        if len(hits) == 600:
            break
    share = torch.cat(hits).double()
    error = float((share.var() / len(share)).sqrt())
    assert pool.chance(ids) == pytest.approx(float(share.mean()), abs=4.5 * error)
    if captions == 2:
        assert pool.chance(ids) == pytest.approx(0.5)


def test_nan_codes_miss():
    sentences = torch.randn(30, 8, generator=generator())
    assert score(torch.full((30, 8), float("nan")), sentences, torch.arange(30)).mean == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 6), extra=st.integers(0, 30))
def test_candidates_are_of_other_classes_and_reach_all_of_them(seed, classes, extra):
    g = generator(seed)
    ids = torch.cat([torch.arange(classes), torch.randint(classes, (extra,), generator=g)])
    ids = ids[torch.randperm(len(ids), generator=g)] * 2**45
    pool = CandidateCaptions(torch.nn.functional.one_hot(ids // 2**45).float(), ids)
    places = pool.choose_wrong(ids, g)
    drawn = pool._sentences[places].argmax(dim=2) * 2**45
    assert places.shape == (len(ids), 99)
    assert not (drawn == ids[:, None]).any()
    reached = [set(row.tolist()) for row in places]
    everything = {n: set((pool._classes != n).nonzero()[:, 0].tolist()) for n in ids.tolist()}
    assert all(r <= everything[n] for r, n in zip(reached, ids.tolist(), strict=True))
    if len(ids) < 10:
        assert all(r == everything[n] for r, n in zip(reached, ids.tolist(), strict=True))


def test_the_same_seed_gives_the_same_score_and_batches_do_not_matter():
    sentences = torch.randn(300, 8, generator=generator())
    codes = sentences + 0.8 * torch.randn(300, 8, generator=generator(1))
    ids = torch.arange(300) % 40
    pool = CandidateCaptions(sentences, ids)
    whole = pool.hits(codes, sentences, ids, generator=generator(5))
    g = generator(5)
    parts = [
        pool.hits(codes[rows], sentences[rows], ids[rows], generator=g, chunk=7)
        for rows in torch.arange(300).split(64)
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert score(codes, sentences, ids, seed=3) == score(codes, sentences, ids, seed=3)
    assert 0.05 < whole.double().mean() < 0.95


def test_folds_cover_every_image_and_adapt_to_their_number():
    hits = torch.arange(25) < 10
    result = r_precision(hits, seed=0)
    order = torch.randperm(25, generator=generator(0))
    shares = [part.mean() for part in np.array_split(hits[order].double().numpy(), 10)]
    assert result.mean == pytest.approx(np.mean(shares))
    assert result.std == pytest.approx(np.std(shares))
    assert r_precision(torch.tensor([True, False, True]), seed=0).folds == 3
    assert result.error == pytest.approx((0.4 * 0.6 / 24) ** 0.5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"sentences \(P, E\) and class_ids \(P,\)"):
        CandidateCaptions(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="candidates is 1"):
        CandidateCaptions(torch.zeros(3, 2), torch.zeros(3), candidates=1)
    one_class = CandidateCaptions(torch.ones(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="at least two classes"):
        one_class.choose_wrong(torch.zeros(1), generator())
    with pytest.raises(ValueError, match="no images"):
        r_precision(torch.zeros(0, dtype=torch.bool), seed=0)


def test_the_ceiling_is_what_a_judge_scores_that_knows_the_scenes():
    source = Scenes("test", images=60, max_objects=1)
    pairs = read_pairs(source, Vocabulary.build(Scenes.vocabulary_captions()), 18)
    context = EvaluationContext(source=source, pairs=pairs, size=32, seed=3)
    # Ideal encoders: the code of an image is its scene, and a caption is near where it is true.
    rows = torch.arange(40)
    true = torch.zeros(40, len(pairs), dtype=torch.bool)
    for row in rows.tolist():
        objects = source.scene(int(pairs.images[row])).objects
        for other in range(len(pairs)):
            true[row, other] = check_caption(context.stated(other)[0], objects).holds
    pool = CandidateCaptions(torch.eye(len(pairs)), pairs.class_ids)
    found = pool.outcomes(
        true.float(), torch.eye(len(pairs))[rows], pairs.class_ids[rows], generator=generator(3)
    )
    assert float(true.sum(dim=1).min()) >= 10  # the ten captions of its own
    assert ceiling(context, pool, rows) == pytest.approx(float(found.by_lot.mean()))
    assert 0.5 < ceiling(context, pool, rows) < 1.0
