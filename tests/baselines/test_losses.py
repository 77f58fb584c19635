import doctest
import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import hinge, losses, matching
from baselines.networks.discriminators import Discriminator

GAMMAS = {"gamma1": 4.0, "gamma2": 5.0}
LENGTHS = torch.tensor([4, 1, 3, 2])
CLASSES = torch.tensor([7, 2, 7, 7])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def batch():
    return draw(4, 6, 3, 2, seed=1), draw(4, 6, 4, seed=2)


def naive_score(regions, words):
    """R(image, text) of (E, N) regions and the (E, L) real words, with a loop per word."""
    matches = [
        [float(words[:, k] @ regions[:, r]) for k in range(words.shape[1])]
        for r in range(regions.shape[1])
    ]
    shares = [torch.tensor(row, dtype=torch.float64).softmax(0) for row in matches]
    total = 0.0
    for k in range(words.shape[1]):
        attention = (4.0 * torch.stack([row[k] for row in shares])).softmax(0)
        context = sum(a * regions[:, r] for r, a in enumerate(attention))
        cosine = context @ words[:, k] / max(float(context.norm() * words[:, k].norm()), 1e-8)
        total += math.exp(5.0 * float(cosine))
    return math.log(total)


def naive_choice(scores, classes):
    """Mean over rows of -log softmax at the diagonal, same-class competitors left out."""
    losses_of_rows = []
    for i, row in enumerate(scores):
        rivals = [float(s) for j, s in enumerate(row) if j == i or classes[j] != classes[i]]
        losses_of_rows.append(math.log(sum(map(math.exp, rivals))) - float(row[i]))
    return sum(losses_of_rows) / len(losses_of_rows)


def naive_scores(regions, words, lengths):
    return torch.tensor(
        [
            [
                naive_score(image.flatten(1), text[:, :n])
                for text, n in zip(words, lengths, strict=True)
            ]
            for image in regions
        ],
        dtype=torch.float64,
    )


def test_words_loss_equals_loops_over_pairs_and_words(batch):
    scores = 10 * naive_scores(*batch, LENGTHS)
    expected = naive_choice(scores, CLASSES), naive_choice(scores.t(), CLASSES)
    ours = losses.words_loss(*batch, LENGTHS, CLASSES, gamma3=10.0, **GAMMAS)
    assert [float(x) for x in ours] == pytest.approx(expected, rel=1e-10)
    unmasked = losses.words_loss(*batch, LENGTHS, None, gamma3=10.0, **GAMMAS)
    everyone = torch.arange(4)
    assert float(unmasked[0]) == pytest.approx(naive_choice(scores, everyone), rel=1e-10)


def test_sentence_loss_equals_loops(batch):
    code, sentence = draw(4, 6, seed=3), draw(4, 6, seed=4)
    scores = torch.stack([10 * F.cosine_similarity(c[None], sentence) for c in code])
    ours = losses.sentence_loss(code, sentence, CLASSES, gamma3=10.0)
    expected = naive_choice(scores, CLASSES), naive_choice(scores.t(), CLASSES)
    assert [float(x) for x in ours] == pytest.approx(expected, rel=1e-10)


def test_scores_of_more_texts_than_images(batch):
    regions, words = batch
    ours = losses.word_scores(regions[:2], words, LENGTHS, **GAMMAS)
    torch.testing.assert_close(ours, naive_scores(regions[:2], words, LENGTHS))


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.data())
def test_blocks_of_images_and_texts_change_nothing(images, texts, rows, columns, data):
    regions, words = draw(images, 3, 2, 2, seed=1), draw(texts, 3, 5, seed=2)
    regions.requires_grad_(), words.requires_grad_()
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, 5), min_size=texts, max_size=texts)))
    whole = matching._scores(regions, words, lengths, 4.0, 5.0)
    with mock.patch.multiple(matching, REGIONS=4 * rows, TEXTS=columns):
        blocks = losses.word_scores(regions, words, lengths, **GAMMAS)
    torch.testing.assert_close(blocks, whole)
    naive = naive_scores(regions.detach(), words.detach(), lengths)
    torch.testing.assert_close(blocks.detach(), naive)
    upstream = draw(images, texts, seed=3)
    for x, y in zip(
        torch.autograd.grad(blocks, (regions, words), upstream),
        torch.autograd.grad(whole, (regions, words), upstream),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


def test_the_words_loss_compiles_in_one_graph(batch):
    torch._dynamo.reset()
    compiled = torch.compile(losses.words_loss, fullgraph=True, backend="eager")
    found = compiled(*batch, LENGTHS, CLASSES, gamma3=10.0, **GAMMAS)
    torch.testing.assert_close(
        found, losses.words_loss(*batch, LENGTHS, CLASSES, gamma3=10.0, **GAMMAS)
    )
    torch._dynamo.reset()


def test_a_share_of_the_rows_gives_its_part_of_the_global_loss(batch):
    scores = losses.word_scores(*batch, LENGTHS, **GAMMAS)
    whole = losses.matching_loss(scores, CLASSES, CLASSES)
    parts = [
        losses.matching_loss(scores[k : k + 2], CLASSES[k : k + 2], CLASSES, offset=k)
        for k in (0, 2)
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_padding_may_hold_anything(batch):
    regions, words = batch
    changed = words.clone()
    for row, length in zip(changed, LENGTHS, strict=True):
        row[:, length:] = 1e3
    a = losses.words_loss(regions, words, LENGTHS, CLASSES, gamma3=10.0, **GAMMAS)
    b = losses.words_loss(regions, changed, LENGTHS, CLASSES, gamma3=10.0, **GAMMAS)
    assert a == b


def test_damsm_gradients_are_finite_in_the_corners():
    regions = torch.zeros(2, 6, 2, 2, requires_grad=True)
    words = torch.zeros(2, 6, 4, requires_grad=True)
    same = torch.tensor([1, 1])
    total = sum(losses.words_loss(regions, words, LENGTHS[:2], same, gamma3=10.0, **GAMMAS))
    total = total + sum(losses.sentence_loss(regions.sum((2, 3)), words.sum(2), same, gamma3=10.0))
    total.backward()
    assert total.item() == 0  # of one class: nothing competes
    assert regions.grad.isfinite().all() and words.grad.isfinite().all()


def test_a_single_pair_has_nothing_to_confuse(batch):
    regions, words = (x[:1] for x in batch)
    pair = losses.words_loss(regions, words, LENGTHS[:1], CLASSES[:1], gamma3=10.0, **GAMMAS)
    assert [float(x) for x in pair] == [0.0, 0.0]
    pair = losses.sentence_loss(words[..., 0], words[..., 1], CLASSES[:1], gamma3=10.0)
    assert [float(x) for x in pair] == [0.0, 0.0]


def test_losses_are_float32_under_autocast(batch):
    regions, words = (x.float() for x in batch)
    plain = losses.words_loss(regions, words, LENGTHS, CLASSES, gamma3=10.0, **GAMMAS)
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses.words_loss(regions, words, LENGTHS, CLASSES, gamma3=10.0, **GAMMAS)
        kl = losses.kl_loss(words.bfloat16(), words.bfloat16())
    assert cast == plain
    assert kl.dtype == torch.float32


def test_attention_over_regions_is_a_distribution(batch):
    attention = losses.word_attention(*batch, LENGTHS, gamma1=4.0)
    assert attention.shape == (4, 4, 3, 2)
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(4, 4, dtype=torch.float64))


def test_kl_loss_of_the_prior_is_zero_and_of_a_shift_half_its_square():
    zero = torch.zeros(3, 5)
    assert losses.kl_loss(zero, zero) == 0
    assert losses.kl_loss(zero + 2, zero) == 2


@given(st.lists(st.integers(0, 4), min_size=2, max_size=24), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_derangement_meets_its_own_class_as_seldom_as_possible(classes, seed):
    ids = torch.tensor(classes)
    order = losses.derangement(ids, generator=torch.Generator().manual_seed(seed))
    assert sorted(order.tolist()) == list(range(len(classes)))
    assert (order != torch.arange(len(classes))).all()
    largest = max(classes.count(c) for c in classes)
    unavoidable = max(0, 2 * largest - len(classes))
    assert (ids[order] == ids).sum() == unavoidable


def test_derangement_is_random_and_reproducible():
    ids = torch.arange(30)
    draws = [losses.derangement(ids, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_derangement_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        losses.derangement(torch.tensor([0]))


class TestAdversarial:
    @pytest.fixture
    def networks(self):
        torch.manual_seed(0)
        return [
            Discriminator(image_size=16, feature_dim=2, embedding_dim=5, unconditional=u).eval()
            for u in (True, False)
        ]

    @pytest.fixture
    def data(self):
        return (
            draw(3, 3, 16, 16, seed=1, dtype=torch.float32),
            draw(3, 3, 16, 16, seed=2, dtype=torch.float32),
            draw(3, 5, seed=3, dtype=torch.float32),
        )

    def test_the_total_is_the_weighted_sum_of_log_probabilities(self, networks, data):
        real, fake, sentence = data
        for network in networks:
            terms = losses.discriminator_terms(network, real, fake, sentence)
            x, y = network(real), network(fake)
            probability = lambda f, s, n=network: n.conditional(f, s).sigmoid()  # noqa: E731
            assert terms["real"].item() == pytest.approx(
                -probability(x, sentence).log().mean().item(), rel=1e-5
            )
            assert terms["fake"].item() == pytest.approx(
                -(1 - probability(y, sentence)).log().mean().item(), rel=1e-5
            )
            wrong = -(1 - probability(x[:2], sentence[1:])).log().mean().item()
            assert terms["wrong"].item() == pytest.approx(wrong, rel=1e-5)
            assert terms["logit_real"] == network.conditional(x, sentence).mean()
            if network.unconditional is None:
                expected = terms["real"] + terms["fake"] / 2 + terms["wrong"] / 2
                assert "real_unconditional" not in terms
            else:
                expected = (terms["real"] + terms["real_unconditional"]) / 2 + (
                    terms["fake"] + terms["fake_unconditional"] + terms["wrong"]
                ) / 3
            torch.testing.assert_close(terms["total"], expected)
            torch.testing.assert_close(
                losses.discriminator_loss(network, real, fake, sentence), expected
            )

    def test_given_sentences_are_the_wrong_ones(self, networks, data):
        real, fake, sentence = data
        wrong = sentence.roll(1, 0)
        term = losses.discriminator_terms(networks[0], real, fake, sentence, wrong=wrong)["wrong"]
        logits = networks[0].conditional(networks[0](real), wrong)
        torch.testing.assert_close(term, F.softplus(logits).mean())

    def test_generator_loss_counts_the_heads_there_are(self, networks, data):
        _, fake, sentence = data
        for network in networks:
            features = network(fake)
            expected = F.softplus(-network.conditional(features, sentence)).mean()
            if network.unconditional is not None:
                expected = expected + F.softplus(-network.unconditional(features)).mean()
            torch.testing.assert_close(losses.generator_loss(network, fake, sentence), expected)

    def test_fakes_receive_no_gradient_from_the_discriminator_loss(self, networks, data):
        real, fake, sentence = data
        fake.requires_grad_()
        losses.discriminator_loss(networks[0], real, fake, sentence).backward()
        assert fake.grad is None

    def test_huge_logits_stay_finite(self, networks, data):
        real, fake, sentence = data
        networks[0].conditional.logit.weight.data.mul_(1e6)
        loss = losses.discriminator_loss(networks[0], real, fake, sentence)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in networks[0].parameters())

    def test_bad_wrong_pairs_are_named(self, networks, data):
        real, fake, sentence = data
        with pytest.raises(ValueError, match="at least 2, got 1"):
            losses.discriminator_loss(networks[0], real[:1], fake[:1], sentence[:1])
        with pytest.raises(ValueError, match="'rotate'"):
            losses.discriminator_loss(networks[0], real, fake, sentence, wrong="rotate")
        with pytest.raises(ValueError, match=r"\(3, 5\), got \(2, 5\)"):
            losses.discriminator_loss(networks[0], real, fake, sentence, wrong=sentence[:2])


@pytest.mark.parametrize("module", [losses, hinge])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
