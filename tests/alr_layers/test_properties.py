"""What must hold for any input: properties of layouts, residuals and losses."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import alr_layers
from tests.support.inputs import Inputs, make_inputs
from tests.support.tolerances import assert_exact

FILLINGS = (0.0, 7.5, -3e30, float("inf"), float("nan"))


@st.composite
def any_inputs(draw: st.DrawFn) -> Inputs:
    sizes = [draw(st.integers(1, limit)) for limit in (3, 7, 6, 5, 5)]
    inputs = make_inputs(*sizes, seed=draw(st.integers(0, 999)))
    inputs.lengths.copy_(torch.tensor([draw(st.integers(1, sizes[1])) for _ in inputs.lengths]))
    return inputs


def padding(inputs: Inputs) -> torch.Tensor:
    return torch.arange(inputs.layout.shape[1]) >= inputs.lengths[:, None]


@given(any_inputs())
def test_layout_is_a_distribution_over_real_words(inputs):
    layout = alr_layers.semantic_similarity(*inputs.args("semantic_similarity"))
    assert (layout >= 0).all()
    assert_exact(layout.sum(1), torch.ones_like(layout[:, 0]))
    empty = padding(inputs)[:, :, None, None].expand_as(layout)
    assert (layout[empty] == 0).all()


@given(any_inputs(), st.sampled_from(FILLINGS))
def test_padded_words_do_not_matter(inputs, filling):
    words = inputs.projected_words.clone().requires_grad_()
    spoilt = words.detach().masked_fill(padding(inputs)[:, None], filling).requires_grad_()
    results = []
    for given_words in (words, spoilt):
        features = inputs.features.clone().requires_grad_()
        layout = alr_layers.semantic_similarity(features, given_words, inputs.lengths)
        clean = given_words.masked_fill(padding(inputs)[:, None], 0)
        context = alr_layers.text_vision_matrix(layout, given_words)
        assert torch.equal(context, alr_layers.text_vision_matrix(layout, clean))
        (context.square().sum() + layout.square().sum()).backward()
        results.append((layout, context, features.grad, given_words.grad))
    for ours, other in zip(*results, strict=True):
        assert torch.equal(ours, other)


@given(any_inputs(), st.sampled_from(FILLINGS))
def test_padded_words_do_not_reach_the_projection(inputs, filling):
    words, channels = inputs.layout.shape[1], inputs.features.shape[1]
    module = alr_layers.ALRModule(channels, 4).double()
    text = torch.randn(len(inputs.lengths), 4, words, dtype=torch.float64)
    results = []
    for given_text in (text, text.masked_fill(padding(inputs)[:, None], filling)):
        module.zero_grad()
        context, layout = module(inputs.features, given_text, inputs.lengths)
        (context.square().sum() + layout.square().sum()).backward()
        results.append((context, layout, module.word_projection.weight.grad.clone()))
    for ours, other in zip(*results, strict=True):
        assert torch.equal(ours, other)


@given(any_inputs())
def test_samples_do_not_see_each_other(inputs):
    together = alr_layers.semantic_similarity(*inputs.args("semantic_similarity"))
    for index in range(len(inputs.lengths)):
        one = slice(index, index + 1)
        alone = alr_layers.semantic_similarity(
            inputs.features[one], inputs.projected_words[one], inputs.lengths[one]
        )
        assert_exact(alone, together[one])


@given(any_inputs())
def test_losses_are_means_over_the_batch(inputs):
    channels = inputs.features.shape[1]
    loss = alr_layers.ALRLoss(channels, max_words=inputs.layout.shape[1]).double()
    lvr = alr_layers.LVRLoss()

    def losses(rows: slice) -> torch.Tensor:
        fake, real = inputs.layout[rows], inputs.real_layout[rows]
        features, real_features = inputs.features[rows], inputs.real_features[rows]
        return torch.stack(
            [loss(fake, real, real_features), lvr(features, real_features, fake, real)]
        )

    batch = len(inputs.lengths)
    alone = torch.stack([losses(slice(row, row + 1)) for row in range(batch)])
    assert_exact(losses(slice(None)), alone.mean(0))


@given(any_inputs(), st.randoms(use_true_random=False))
def test_regions_may_be_permuted(inputs, random):
    _, _, height, width = inputs.features.shape
    order = list(range(height * width))
    random.shuffle(order)

    def permuted(values: torch.Tensor) -> torch.Tensor:
        return values.flatten(2)[:, :, order].unflatten(2, (height, width))

    words, lengths = inputs.projected_words, inputs.lengths
    layout = alr_layers.semantic_similarity(inputs.features, words, lengths)
    moved = alr_layers.semantic_similarity(permuted(inputs.features), words, lengths)
    assert_exact(moved, permuted(layout))
    args = (inputs.features, inputs.real_features, inputs.layout, inputs.real_layout)
    for loss in (alr_layers.perception_refinement_loss, alr_layers.style_refinement_loss):
        assert_exact(loss(*map(permuted, args)), loss(*args))


@given(any_inputs(), st.sampled_from(["soft", "hard"]))
def test_refinement_is_nothing_when_real_is_fake(inputs, mask):
    terms = alr_layers.LVRLoss(mask=mask).terms(
        inputs.features, inputs.features, inputs.layout, inputs.layout
    )
    assert all(value == 0 for value in terms.values())


@given(any_inputs(), st.floats(0, 1))
def test_residual_splits_symmetrically(inputs, gamma):
    easy, hard = alr_layers.alr_residual(inputs.layout, inputs.real_layout, gamma=gamma)
    swapped = alr_layers.alr_residual(inputs.real_layout, inputs.layout, gamma=gamma)
    assert torch.equal(easy + hard, (inputs.real_layout - inputs.layout).abs())
    assert torch.equal(easy, swapped[0])
    assert torch.equal(hard, swapped[1])
    assert (easy * hard == 0).all()
    assert (easy[easy > 0] < gamma).all()
    assert (hard[hard > 0] >= gamma).all()


@given(any_inputs())
def test_soft_mask_is_the_strongest_claim(inputs):
    soft = alr_layers.layout_mask(inputs.layout)
    assert (soft >= inputs.layout).all()
    hard = alr_layers.layout_mask(inputs.layout, mask="hard")
    assert set(hard.unique().tolist()) <= {0.0, 1.0}
    assert (hard.flatten(1).amax(1) == 1).all(), "the highest claim reaches the mean"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("mask", ["soft", "hard"])
def test_bad_numbers_come_out(bad, mask):
    def spoilt(values: torch.Tensor) -> torch.Tensor:
        copy = values.clone()
        copy[0, 0, 0, 0] = bad
        return copy

    inputs = make_inputs(2, 3, 4, 3, 3)
    words = inputs.projected_words.clone()
    words[0, 0, 0] = bad
    layout = alr_layers.semantic_similarity(inputs.features, words, inputs.lengths)
    assert not layout[0].isfinite().all()
    assert layout[1].isfinite().all()
    layout = alr_layers.semantic_similarity(
        spoilt(inputs.features), inputs.projected_words, inputs.lengths
    )
    assert not layout[0].isfinite().all()
    assert not alr_layers.text_vision_matrix(spoilt(inputs.layout), words).isfinite().all()
    for part in alr_layers.alr_residual(spoilt(inputs.layout), inputs.real_layout, gamma=0.1)[1:]:
        assert not part.isfinite().all()

    tensors = (inputs.features, inputs.real_features, inputs.layout, inputs.real_layout)
    for place in range(4):
        args = [spoilt(value) if place == index else value for index, value in enumerate(tensors)]
        terms = alr_layers.LVRLoss(mask=mask).terms(*args)
        assert not terms["perception"].isfinite()
        assert not terms["style"].isfinite()
    loss = alr_layers.ALRLoss(4).double()
    tensors = (inputs.layout, inputs.real_layout, inputs.real_features)
    for place in range(3):
        args = [spoilt(value) if place == index else value for index, value in enumerate(tensors)]
        assert not loss(*args).isfinite()


@given(st.lists(st.floats(1e-8, 1e3), min_size=2, max_size=12))
def test_a_term_that_speaks_now_and_then_never_drowns_the_host(sizes):
    """Four shares at most where it is measured, whatever it was before; a rise of 2 at most."""
    h = torch.linspace(1, 2, 6, dtype=torch.float64, requires_grad=True)
    host, balance = h.sum(), alr_layers.TermBalance(alr=0.1, every=1)
    scales = []
    for step, size in enumerate(sizes):
        (weighted,) = balance.weighted(host, {"alr": size * h.square().sum()}, at=h, step=step)
        (gradient,) = torch.autograd.grad(weighted["alr"], h, retain_graph=True)
        assert gradient.norm() <= 4.001 * 0.1 * len(h) ** 0.5
        scales.append(balance.report()["alr"]["scale"])
    for before, after in itertools.pairwise(scales):
        assert after <= 2.001 * before
